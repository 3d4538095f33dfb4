import {
  CORPUS_OPTIONS,
  DEVICE_OPTIONS,
  type DocumentEvaluation,
  evaluate,
  EVALUATE_OPTIONS,
  MicrogptError,
  renderCleanup,
} from "../mod.ts";
import type { Command, FlagValues } from "./command.ts";
import { flagsOf, given } from "./flags.ts";
import { ANY_MODEL, localModelDir } from "./model_dir.ts";
import { PreparationView } from "./progress.ts";
import { print, printJson, say, sayNotice } from "./terminal.ts";

export const command: Command = {
  flags: [
    { name: "--model-dir", value: "dir", help: ANY_MODEL, default: "output" },
    ...flagsOf(CORPUS_OPTIONS),
    {
      name: "--chat",
      help:
        "the input is conversations (default: as the model; --format text measures a chat model on plain text)",
    },
    ...flagsOf(EVALUATE_OPTIONS),
    { name: "--per-document", help: "print a JSON object a document" },
    ...flagsOf(DEVICE_OPTIONS),
    { name: "--json", help: "print one JSON object" },
  ],
  run: runEval,
};

async function runEval(values: FlagValues): Promise<void> {
  const { modelDir = "output", input, chat, perDocument, json } = values;
  if (input === undefined) {
    throw new MicrogptError("--input is required", { hint: "name the text to measure", usage: true });
  }
  const preparation = new PreparationView();
  const printDocument = ({ document, ...figures }: DocumentEvaluation) => {
    preparation.end();
    printJson({ document, ...fieldsOf(figures) });
  };
  const { notices, cleanup, documents, blockSize, mode, device, ...figures } = await evaluate({
    modelDir: await localModelDir(modelDir as string),
    ...given(CORPUS_OPTIONS, values),
    ...(chat === undefined ? {} : { chat: !!chat }),
    ...given(EVALUATE_OPTIONS, values),
    ...given(DEVICE_OPTIONS, values),
    onPreparing: (progress) => preparation.show(progress),
    ...(perDocument ? { onDocument: printDocument } : {}),
  }).finally(() => preparation.end());
  for (const notice of notices) sayNotice(notice);
  for (const line of renderCleanup(cleanup)) say(line);
  if (perDocument) return;
  if (json) return printJson({ documents, ...fieldsOf(figures), block_size: blockSize, mode, device });
  const count = (n: number) => n.toLocaleString("en");
  const unit = mode === "chat" ? "conversations" : "documents";
  print(`${count(documents)} ${unit}, ${count(figures.tokens)} tokens, ${count(figures.bytes)} bytes`);
  print(`loss        ${figures.loss.toFixed(4)} nats a token`);
  print(`perplexity  ${figures.perplexity.toFixed(3)}`);
  print(`bits/byte   ${figures.bitsPerByte.toFixed(4)}`);
}

/** Figures by the names that JSON has for them. */
function fieldsOf({ tokens, bytes, loss, perplexity, bitsPerByte }: Omit<DocumentEvaluation, "document">) {
  return { tokens, bytes, loss, perplexity, bits_per_byte: bitsPerByte };
}
