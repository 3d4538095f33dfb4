/** Log-probabilities of a corpus, a batch of windows at a time. */
import { batchesInOrder } from "../../data/batches.ts";
import { bytesOfTokens } from "../../data/bits_per_byte.ts";
import { cleanupOf } from "../../data/cleanup.ts";
import { openCorpus } from "../../data/corpus.ts";
import { CORPUS_OPTIONS, type CorpusSettings } from "../../data/corpus_options.ts";
import { AllBut } from "../../data/document_numbers.ts";
import { type Pieces, piecesOf } from "../../data/tokens/pieces.ts";
import { CONTROL, type Device } from "../../device/device.ts";
import { MicrogptError } from "../../device/errors.ts";
import { openDevice, openTokenizer } from "../devices.ts";
import { networkOf } from "../networks.ts";
import { flatTensor } from "../parameters.ts";
import { DEFAULTS } from "../settings.ts";
import { type BaseModel, encoderOf, readBase, readsConversations } from "./base_model.ts";
import {
  type CorpusEvaluation,
  EVALUATE_OPTIONS,
  type EvaluateOptions,
  type TextEvaluation,
  USUAL_WINDOW,
} from "./evaluate.ts";
import { deviceOptions } from "./options.ts";
import { tokensOf } from "./prepare.ts";
import { dataNotices, unitOf } from "./training_data.ts";

/** Tokens and documents of a batch, unless one window is longer. */
const BATCH_TOKENS = 1024;
const BATCH_DOCUMENTS = 64;

/** What `evaluate` does, once it has checked the options. */
export async function evaluateModel(options: EvaluateOptions): Promise<CorpusEvaluation> {
  const base = await readBase(options.modelDir, false);
  const chat = readsConversations(base, options);
  if (chat && !base.chat) {
    throw new MicrogptError(`\`chat\`: ${base.path} is a model of plain text`, { usage: true });
  }
  const { loss = EVALUATE_OPTIONS.loss.default } = options;
  if (loss === "answers" && !chat) {
    throw new MicrogptError("`loss` answers needs conversations: use `chat`", { usage: true });
  }
  const context = base.config.block_size;
  const { blockSize = Math.min(context, USUAL_WINDOW) } = options;
  if (blockSize > context) {
    throw new MicrogptError(`\`blockSize\` ${blockSize} is more than the model's context, ${context}`, {
      usage: true,
    });
  }
  const reading = Object.fromEntries(
    Object.keys(CORPUS_OPTIONS).map((name) => [name, options[name as keyof CorpusSettings]]),
  );
  const tokenizer = await openTokenizer(base.tokenizerJson, options.threads);
  const { encoder, keepSystem } = await encoderOf(base, tokenizer);
  const corpus = await openCorpus({ ...reading, chat, keepSystem } as Parameters<typeof openCorpus>[0]);
  const prepared = await tokensOf(
    corpus,
    options,
    { ...DEFAULTS, loss },
    tokenizer,
    () => encoder,
  );
  const { store } = prepared;
  try {
    const pieces = piecesOf(store, new AllBut(store.documents), blockSize, "split", loss === "answers");
    const tokenBytes = bytesOfTokens(tokenizer, encoder.end);
    const sum = await measure(base, pieces, tokenBytes, options);
    if (sum.tokens === 0) {
      throw new MicrogptError("nothing in the data counts", { hint: "use `loss` all" });
    }
    return {
      ...figures(sum),
      documents: store.documents,
      blockSize,
      mode: corpus.mode,
      device: sum.device,
      cleanup: cleanupOf(prepared.report, unitOf(corpus.mode)),
      notices: dataNotices(corpus, prepared, undefined),
    };
  } finally {
    store.close();
  }
}

/** Sums over targets. */
interface Sum {
  tokens: number;
  bytes: number;
  nats: number;
}

function figures({ tokens, bytes, nats }: Sum): TextEvaluation {
  const loss = nats / tokens;
  return { tokens, bytes, loss, perplexity: Math.exp(loss), bitsPerByte: nats / (Math.LN2 * bytes) };
}

/** Runs the model over all pieces, and tells each document's figures as soon as its last piece is done. */
async function measure(
  base: BaseModel,
  pieces: Pieces,
  tokenBytes: Uint32Array,
  options: EvaluateOptions,
): Promise<Sum & { device: string }> {
  const { onDocument, signal } = options;
  const network = networkOf(base.config);
  const device = await openDevice(deviceOptions(options));
  try {
    const maxTokens = Math.max(pieces.longest, BATCH_TOKENS);
    const flat = flatTensor(device, "weights", network.layout, "work");
    device.write(flat, await base.readParameters());
    const weights = network.views(device, flat);
    const activations = network.allocateActivations(device, maxTokens);
    const batch = device.createBatch(maxTokens, BATCH_DOCUMENTS);
    const control = unscaled(device);
    const all: Sum = { tokens: 0, bytes: 0, nats: 0 };
    let one: Sum = { tokens: 0, bytes: 0, nats: 0 };
    let piece = 0;
    for (const packed of batchesInOrder(pieces, maxTokens, BATCH_DOCUMENTS)) {
      signal?.throwIfAborted();
      const { targets, starts, weights: counts } = packed;
      device.loadBatch(batch, packed);
      network.forward(device, weights, activations, batch, 1, control);
      const losses = await device.read(activations.losses);
      for (let d = 0; d + 1 < starts.length; d++, piece++) {
        for (let t = starts[d]!; t < starts[d + 1]!; t++) {
          if (counts && counts[t] === 0) continue;
          one.tokens++;
          one.bytes += tokenBytes[targets[t]!]!;
          one.nats += losses[t]!;
        }
        const document = pieces.document(piece);
        if (piece + 1 < pieces.count && pieces.document(piece + 1) === document) continue;
        if (one.tokens > 0) onDocument?.({ document: document + 1, ...figures(one) });
        for (const name of ["tokens", "bytes", "nats"] as const) all[name] += one[name];
        one = { tokens: 0, bytes: 0, nats: 0 };
      }
    }
    return { ...all, device: device.name };
  } finally {
    device.destroy();
  }
}

/** What the loss kernel reads of an optimizer: no loss scale. */
function unscaled(device: Device) {
  const control = device.tensor("control", 1, 4);
  const values = new Float32Array(4);
  values[CONTROL.lossScale] = 1;
  device.write(control, values);
  return control;
}
