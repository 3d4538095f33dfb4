/**
 * Training on two processes of one thread each against one process with two threads, and against PyTorch, alone
 * and with DDP over gloo, on the same documents, in rounds that alternate.
 *
 *     deno run -A bench/distributed.ts --tokens medium.bin --preset chat-medium --python python3
 *
 * The documents file is that of bench/documents.ts. Each measurement is a launch of its own, so that nobody waits and spins
 * while another one is measured; its first steps are not counted.
 */
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import type { Group, NativeMemory } from "../device/group.ts";
import { openDevice } from "../model/devices.ts";
import { networkKind, networkOf } from "../model/networks.ts";
import { emptyState } from "../model/optimizer_state.ts";
import { DEFAULTS, type PresetName, PRESETS } from "../model/settings.ts";
import { openRanks, Ranks } from "../model/train/ranks.ts";
import { type Recipe, Trainer } from "../model/train/trainer.ts";
import { median, readBatches } from "./documents_file.ts";

const { values: flags } = parseArgs({
  options: {
    /** of `microgpt train`, or `defaults` */
    preset: { type: "string", default: "defaults" },
    tokens: { type: "string" },
    ranks: { type: "string", default: "2" },
    /** micro-batches a step */
    accum: { type: "string", default: "4" },
    /** timed, after one that is not */
    steps: { type: "string", default: "8" },
    rounds: { type: "string", default: "5" },
    /** launchers, with a comma between two */
    mpirun: { type: "string", default: "mpirun.openmpi,mpirun.mpich" },
    /** interpreter with torch; without it only ours is measured */
    python: { type: "string" },
    /** steps of PyTorch */
    "python-steps": { type: "string", default: "3" },
    /** eager or compile */
    "python-mode": { type: "string", default: "eager" },
    /**
     * what each of two machines may send, such as 1gbit: compares sums that travel while gradients are computed with sums at
     * the end, on two ranks that are machines of tests/native/two_machines.sh
     */
    wire: { type: "string" },
    /** one process of a measurement: `alone` with a thread for each rank, `shared` with one, `late` with sums at the end */
    as: { type: "string" },
  },
});
if (flags.tokens === undefined) throw new Error("--tokens is needed: a documents file");
const settings = {
  ...DEFAULTS,
  ...(flags.preset === "defaults" ? {} : PRESETS[flags.preset as PresetName]),
};
const config = networkKind(settings.arch).configOf(settings, settings.vocabSize);
const WARMUP = 1;

/** What a measurement prints. */
interface Measured {
  tokens: number;
  seconds: number;
}

/** The same group, whose sums do not begin before they are waited for. */
function atTheEnd(group: Group): Group {
  const { rank, size, localSize, launcher } = group;
  const begun: NativeMemory[] = [];
  return {
    ...{ rank, size, localSize, launcher },
    beginSum: (values) => void begun.push(values),
    finishSums: () => begun.splice(0).forEach((values) => group.sum(values)),
    sum: (values) => group.sum(values),
    total: (values) => group.total(values),
    max: (values) => group.max(values),
    broadcast: (bytes) => group.broadcast(bytes),
    barrier: () => group.barrier(),
    abort: (code) => group.abort(code),
    close: () => group.close(),
  };
}

/** Trains as `microgpt train` does, with the same trainer. */
async function train(): Promise<void> {
  const shared = flags.as !== "alone";
  let ranks = await openRanks(shared ? { distributed: "mpi" } : {});
  if (flags.as === "late") ranks = new Ranks(atTheEnd(ranks!.group), ranks!.version, {});
  const device = await openDevice({ device: "cpu", threads: shared ? 1 : Number(flags.ranks) });
  const batches = readBatches(flags.tokens!, settings.batchSize, settings.blockSize);
  const totalSteps = WARMUP + Number(flags.steps);
  const recipe: Recipe = {
    ...settings,
    totalSteps,
    gradAccum: Number(flags.accum),
    evalEvery: 0,
  };
  const data = {
    maxTokens: Math.max(...batches.map(({ tokens }) => tokens.length)),
    maxDocuments: settings.batchSize,
    batch: (number: number) => batches[number % batches.length]!,
    validation: () => [],
    validationBytes: 0,
  };
  const trainer = new Trainer(device, config, data, recipe, false, ranks);
  const network = networkOf(config);
  const state = {
    step: 0,
    adamStep: 0,
    params: network.initialParameters(settings.seed),
    optimizer: emptyState(network.layout),
  };
  trainer.load(state);
  const measured: Measured = { tokens: 0, seconds: 0 };
  let started = performance.now();
  for await (const event of trainer.run(totalSteps, { lastGood: () => Promise.resolve(state) })) {
    if (event.type !== "step") continue;
    if (event.step === WARMUP) started = performance.now();
    else if (event.step > WARMUP) measured.tokens += event.tokens;
  }
  measured.seconds = (performance.now() - started) / 1000;
  device.destroy();
  ranks?.group.close();
  if (ranks?.isFirst !== false) console.log(JSON.stringify(measured));
  Deno.exit(0);
}

/** Tokens a second of a program that prints what it measured. */
async function measure(program: string, args: string[]): Promise<number> {
  const { code, stdout, stderr } = await new Deno.Command(program, {
    args,
    env: {
      OMP_NUM_THREADS: "1",
      OMPI_ALLOW_RUN_AS_ROOT: "1",
      OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
    },
  }).output();
  const text = new TextDecoder();
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}\n${text.decode(stderr)}`);
  const { tokens, seconds } = JSON.parse(text.decode(stdout).trim().split("\n").at(-1)!) as Measured;
  return tokens / seconds;
}

function ours(as: string): string[] {
  const given = ["tokens", "preset", "ranks", "accum", "steps"] as const;
  return [
    ...["run", "-A", "--quiet", fileURLToPath(import.meta.url), "--as", as],
    ...given.flatMap((name) => [`--${name}`, flags[name]!]),
  ];
}

function pytorch(shared: boolean): string[] {
  const options = {
    "--n-embd": settings.nEmbd,
    "--n-head": settings.nHead,
    "--n-layer": settings.nLayer,
    "--block-size": settings.blockSize,
    "--vocab-size": settings.vocabSize,
    "--batch-size": settings.batchSize,
    "--accum": flags.accum,
    "--steps": flags["python-steps"],
    "--mode": flags["python-mode"],
    "--threads": shared ? 1 : flags.ranks,
  };
  const torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", flags.ranks, "--standalone"];
  return [
    ...(shared ? torchrun : []),
    ...[fileURLToPath(new URL("pytorch_ddp.py", import.meta.url)), "--tokens", flags.tokens!],
    ...Object.entries(options).flatMap(([flag, value]) => [flag, String(value)]),
  ];
}

type Kind = [name: string, program: string, args: string[]];

/** Tokens a second of each kind in each round. */
async function measureRounds(kinds: Kind[]): Promise<number[][]> {
  const rates = kinds.map((): number[] => []);
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const [i, [, program, args]] of kinds.entries()) rates[i]!.push(await measure(program, args));
    console.log(kinds.map(([name], i) => `${name} ${rates[i]!.at(-1)!.toFixed(0)} tok/s`).join(" | "));
  }
  return rates;
}

const launched = (as: string) => ["-n", flags.ranks, Deno.execPath(), ...ours(as)];

async function compareOverWire(rate: string): Promise<void> {
  const { onTwoMachines } = await import("../tests/native/mpi_launch.ts");
  for (const mpirun of flags.mpirun.split(",")) {
    const family = mpirun.includes("mpich") ? "MPICH" : "Open MPI";
    const { program, args = [] } = onTwoMachines({ program: mpirun, family }, rate);
    const [late, meanwhile] = await measureRounds([
      [`${mpirun}, sums at the end`, program, [...args, ...launched("late")]],
      ["meanwhile", program, [...args, ...launched("shared")]],
    ]) as [number[], number[]];
    const ratio = median(meanwhile.map((tokens, round) => tokens / late[round]!));
    console.log(
      `${mpirun} on ${rate}: median ratio of sums meanwhile to sums at the end ${ratio.toFixed(3)}`,
    );
  }
}

async function compare(): Promise<void> {
  const kinds: Kind[] = [
    ["one process", Deno.execPath(), ours("alone")],
    ...flags.mpirun.split(",").map((mpirun): Kind => [mpirun, mpirun, launched("shared")]),
  ];
  const pytorchAt = kinds.length;
  if (flags.python !== undefined) {
    kinds.push(["PyTorch, one process", flags.python, pytorch(false)]);
    kinds.push(["PyTorch DDP", flags.python, pytorch(true)]);
  }
  const rates = await measureRounds(kinds);
  const ratio = (a: number, b: number) =>
    median(rates[a]!.map((rate, round) => rate / rates[b]![round]!)).toFixed(3);
  for (const [i, [name]] of kinds.entries()) {
    const toOne = `median ratio to one process ${ratio(i, i < pytorchAt ? 0 : pytorchAt)}`;
    const theirs = i === 0 ? pytorchAt : pytorchAt + 1;
    const toPytorch = i < pytorchAt && kinds[theirs] ? `, to ${kinds[theirs][0]} ${ratio(i, theirs)}` : "";
    console.log(`${name}: median ${median(rates[i]!).toFixed(0)} tok/s, ${toOne}${toPytorch}`);
  }
}

if (flags.as !== undefined) await train();
else if (flags.wire !== undefined) await compareOverWire(flags.wire);
else await compare();
