/** Options of the server, each declared once. */
import type { Options, OptionValues } from "../../device/options.ts";
import { SAMPLING } from "../generate/sampling.ts";

/** How a model is served. */
export const SERVE_OPTIONS = {
  host: {
    type: "text",
    default: "127.0.0.1",
    value: "address",
    help: "address to listen on; any but this machine's own needs `apiKey` or `noAuth`",
  },
  port: { type: "whole", min: 0, max: 65535, default: 8080, help: "port to listen on; 0 takes a free one" },
  modelName: {
    type: "text",
    value: "name",
    help: "what requests call the model (default: the name of its directory or file)",
  },
  parallel: { type: "whole", min: 1, max: 256, default: 32, help: "answers that are generated together" },
  queue: {
    type: "whole",
    min: 0,
    max: 1e6,
    default: 1024,
    help: "answers that may wait for their turn; more are refused with status 429",
  },
  requestTimeout: {
    type: "number",
    min: 0.001,
    max: 1e6,
    default: 300,
    help: "seconds that a request may take, its waiting included",
  },
  readerTimeout: {
    type: "number",
    min: 0.001,
    max: 1e6,
    default: 10,
    help: "seconds after which a client that does not read its stream makes room for those who wait",
  },
  cacheMb: {
    type: "whole",
    min: 1,
    max: 1e6,
    default: 512,
    help: "megabytes for keys and values: of answers under way, and of earlier prompts to be found again",
  },
  apiKey: {
    type: "text",
    value: "key",
    help: "key that requests must have (default: MICROGPT_API_KEY of the environment, else none)",
  },
  noAuth: { type: "switch", help: "serve other machines without a key" },
  corsOrigin: {
    type: "text",
    repeatable: true,
    value: "origin",
    help: "web origin whose pages may use the server, such as https://example.org",
  },
  watch: {
    type: "text",
    repeatable: true,
    value: "dir",
    help: "show a training run, or all in a folder of them, as they go on",
  },
  tlsCert: { type: "text", value: "file", help: "certificate in PEM, for https" },
  tlsKey: { type: "text", value: "file", help: "private key of the certificate in PEM" },
  grace: {
    type: "number",
    min: 0,
    max: 1e6,
    default: 10,
    help: "seconds that answers under way get when the server is asked to end",
  },
  log: { type: "choice", choices: ["text", "json", "none"], default: "text", help: "lines about requests" },
} as const satisfies Options;

/** Sampling options that requests may leave to the server. */
export const DEFAULTED_SAMPLING = {
  temperature: SAMPLING.temperature,
  topK: SAMPLING.topK,
  topP: SAMPLING.topP,
  minP: SAMPLING.minP,
  repetitionPenalty: SAMPLING.repetitionPenalty,
  frequencyPenalty: SAMPLING.frequencyPenalty,
  presencePenalty: SAMPLING.presencePenalty,
} as const satisfies Options;

/** How a model is served; the sampling options are for requests that leave them out. */
export type ServeOptions = Partial<OptionValues<typeof SERVE_OPTIONS>> & SamplingDefaults;

/** Sampling of requests that leave it out. */
export type SamplingDefaults = Partial<OptionValues<typeof DEFAULTED_SAMPLING>>;
