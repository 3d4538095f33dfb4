/** What a run is to do, given what a person asked for and what the checkpoint says. */
import { MicrogptError } from "../../device/errors.ts";
import { holdsCheckpoint, type LoadedCheckpoint } from "../files/checkpoint.ts";
import { keptIn } from "../files/output_directory.ts";
import { readFreeze } from "../freeze.ts";
import { networkOf } from "../networks.ts";
import {
  DEFAULTS,
  fieldsOf,
  FROM_DEFAULTS,
  type PresetName,
  PRESETS,
  type SettingName,
  type Settings,
} from "../settings.ts";
import { type BaseModel, checkShape } from "./base_model.ts";
import type { TrainOptions } from "./options.ts";
import type { Recipe } from "./trainer.ts";

/** Where the run goes. One that goes on from a checkpoint kept by another run gets a directory of its own. */
export async function outputOf({ output, resume }: TrainOptions, notices: string[]): Promise<string> {
  if (output !== undefined || resume === undefined) return output ?? "output";
  const kept = await keptIn(resume);
  if (!kept) return resume;
  const own = kept.next;
  if (await holdsCheckpoint(own)) {
    throw new MicrogptError(`${own}, where the run from ${resume} would go, holds a run already`, {
      hint: `go on with \`resume\` ${own}, or choose another directory with \`output\``,
      usage: true,
    });
  }
  notices.push(`the run goes on in ${own}: ${resume} stays as the run in ${kept.run} keeps it`);
  return own;
}

/**
 * Explicit options, then the checkpoint, then the preset, then the defaults. Reports where an option changes a resumed
 * run.
 */
export function resolveSettings(
  options: TrainOptions,
  checkpoint: LoadedCheckpoint | undefined,
  notices: string[],
  base?: BaseModel,
): Settings {
  const given = Object.fromEntries(
    Object.keys(DEFAULTS).filter((name) => options[name as keyof Settings] !== undefined)
      .map((name) => [name, options[name as keyof Settings]]),
  ) as Partial<Settings>;
  if (base) return settingsFrom(base, given, isChat(options));
  if (!checkpoint) {
    const { preset: name } = options;
    // those of auto are given by now
    const preset = name && name !== "auto" ? presetOf(name, isChat(options), given) : {};
    return { ...DEFAULTS, ...preset, ...given };
  }

  const saved = settingsOf(checkpoint);
  const ofTheModel = fieldsOf("config").map(([name]) => name);
  for (const name of [...ofTheModel, "seed", "valFraction", "loss", "freeze"] as const) {
    if (given[name] === undefined || saved[name] === undefined) continue;
    if (given[name] !== saved[name]) {
      notices.push(
        `warning: \`${name}\` ${given[name]} is ignored, the checkpoint has ${saved[name]}`,
      );
    }
    delete given[name];
  }
  if (options.preset !== undefined && options.preset !== checkpoint.trainState.preset) {
    notices.push(`warning: \`preset\` ${options.preset} is ignored, the settings are the checkpoint's`);
  }
  for (const name of ["learningRate", "batchSize"] as const) {
    if (given[name] === undefined || given[name] === saved[name]) continue;
    notices.push(`warning: \`${name}\` changes from ${saved[name]} to ${given[name]}`);
  }
  const { step, steps_total: total } = checkpoint.trainState;
  // none of a run that is complete: `TrainingRun.events` then asks for `steps`
  const remaining = total !== undefined ? { steps: Math.max(0, total - step) } : {};
  return { ...DEFAULTS, ...saved, ...remaining, ...given };
}

/** The settings of a preset. Of plain text nothing is thrown away, unless somebody asks for that. */
function presetOf(name: PresetName, chat: boolean, { skipLong }: Partial<Settings>): Partial<Settings> {
  return chat || skipLong ? PRESETS[name] : { long: "split", ...PRESETS[name] };
}

/** Whether options name conversations. */
export function isChat({ chat, conversations }: TrainOptions): boolean {
  return chat === true || conversations !== undefined;
}

/**
 * The settings of a run that starts from a model.
 * @throws {MicrogptError} when one of those given is another than the model's
 */
function settingsFrom({ path, config }: BaseModel, given: Partial<Settings>, chat: boolean): Settings {
  const { blockSize: context, ...shape } = networkOf(config).toShape();
  const fixed = { ...shape, vocabSize: config.vocab_size };
  const { blockSize = Math.min(context, FROM_DEFAULTS.blockSize) } = given;
  if (blockSize > context) {
    throw new MicrogptError(
      `\`blockSize\` is ${blockSize}, the model in ${path} has a context of ${context}`,
      {
        hint: "a run may use less of it, not more",
        usage: true,
      },
    );
  }
  checkShape(path, fixed, given);
  const loss = chat ? "answers" : "all";
  return { ...DEFAULTS, ...FROM_DEFAULTS, loss, ...given, ...fixed, blockSize } as Settings;
}

/** The settings that a checkpoint holds. */
function settingsOf({ config, trainState }: LoadedCheckpoint): Partial<Settings> {
  const held = trainState as unknown as Record<string, Settings[SettingName] | undefined>;
  const saved = fieldsOf("saved").map(([name, field]) => [name, held[field]]);
  return {
    // earlier checkpoints trained on everything
    loss: DEFAULTS.loss,
    freeze: DEFAULTS.freeze,
    ...Object.fromEntries(saved.filter(([, value]) => value !== undefined)),
    ...networkOf(config).toShape(),
    ...(trainState.block_size === undefined ? {} : { blockSize: trainState.block_size }),
    vocabSize: config.vocab_size,
  };
}

/**
 * How the trainer is to go on from a step.
 * @param nLayer L of the model
 * @throws {MicrogptError} when `freeze` does not fit it, and for patience without evaluations
 */
export function resolveRecipe(settings: Settings, start: number, nLayer: number): Recipe {
  if (settings.patience > 0 && settings.evalEvery === 0) {
    throw new MicrogptError(
      "`patience` counts evaluations, and with `evalEvery` 0 there are none on the way",
      {
        hint: "give `evalEvery` a number of steps, or leave out `patience`",
        usage: true,
      },
    );
  }
  const frozen = readFreeze(settings.freeze, nLayer);
  return {
    ...(frozen ? { frozen } : {}),
    totalSteps: start + settings.steps,
    learningRate: settings.learningRate,
    warmupSteps: settings.warmupSteps,
    schedule: settings.schedule,
    decayFraction: settings.decayFraction,
    optimizer: settings.optimizer,
    muonLearningRate: settings.muonLearningRate,
    weightDecay: settings.weightDecay,
    cautiousDecay: settings.cautiousDecay,
    gradClip: settings.gradClip,
    gradAccum: settings.gradAccum,
    evalEvery: settings.evalEvery,
    patience: settings.patience,
  };
}

/** The setting that sets a field of the architecture, as messages call it. */
export function settingOf(field: string): string {
  return `\`${fieldsOf("config").find(([, other]) => other === field)![0]}\``;
}
