/** A model that is there: it writes, talks, shows what it sees, and can be taken home. */
import { at, download, make } from "./shared/page.js";
import { TokenText } from "./shared/token_text.js";
import { probabilityBars } from "./shared/tokens.js";
import { attempt, sizeOf } from "./page.js";
import { exampleFor } from "./setup.js";
import { calls, changed, hear, onChange, state } from "./state.js";
import { attentionView, tokenMap } from "./views.js";

/** @param {string} name @param {boolean} chat */
export function useModel(name, chat) {
  state.model = { name, chat, own: true, example: exampleFor(name, chat) };
  at("use").hidden = false;
  at("use-name").textContent = `Use ${name}`;
  conversation = [];
  for (const id of ["written", "turns", "seen", "token-map", "take-note"]) at(id).replaceChildren();
  for (const legend of at("use").querySelectorAll(".colours")) legend.remove();
  at("look-at").value = state.model.example;
  showTab(chat ? "talk" : "write");
  changed();
  attempt(describe);
}

/** Shows what there is for this kind of model. */
async function describe() {
  const { model } = state;
  const { own, formats } = await ask("describe");
  if (!model || model !== state.model) return; // another was chosen meanwhile
  model.own = own;
  for (const kind of ["hf", "gguf", "onnx"]) at(`take-${kind}`).hidden = !formats.includes(kind);
  at("take-model").hidden = at("take-how").hidden = !own;
  at("foreign").hidden = own;
  offerTabs();
}

/** @param {string} name of a model that is gone */
export function forgetModel(name) {
  if (state.model?.name !== name) return;
  state.model = undefined;
  at("use").hidden = true;
}

/** @param {string} method @param {object} args */
const ask = (method, args = {}) => calls.call(method, { name: state.model?.name, ...args });

// Tabs ----------------------------------------------------------------------------------------------------------------

/** @param {string} name */
function showTab(name) {
  for (const tab of at("tabs").children) tab.setAttribute("aria-selected", String(tab.dataset.tab === name));
  for (const panel of document.querySelectorAll("[data-panel]")) {
    /** @type {HTMLElement} */ (panel).hidden = /** @type {HTMLElement} */ (panel).dataset.panel !== name;
  }
  if (state.training) return;
  if (name === "see" && !at("seen").hasChildNodes() && at("look-at").value) attempt(look, at("look"));
  if (name === "map" && !at("token-map").hasChildNodes()) {
    attempt(async () => at("token-map").replaceChildren(tokenMap(await ask("map"))));
  }
}
at("tabs").onclick = (/** @type {any} */ { target }) => target.dataset.tab && showTab(target.dataset.tab);

/** Only what this model can do. */
function offerTabs() {
  const { model } = state;
  const shown = { talk: model?.chat, see: model?.own, map: model?.own };
  for (const tab of at("tabs").children) {
    tab.hidden = shown[/** @type {"talk"} */ (tab.dataset.tab)] === false;
  }
}

// Write and talk ------------------------------------------------------------------------------------------------------

/**
 * Colours what the model wrote, once it is known how probable it was.
 * @param {HTMLElement} element holds the text
 * @param {object} written what `inspect` takes
 */
async function colour(element, written) {
  if (!state.model?.own) return;
  const seen = await ask("inspect", written).catch((error) => {
    if (!/are looked at$/.test(error.message)) throw error; // a long text stays without colours
  });
  if (!seen) return;
  new TokenText(element, at("expected")).set(seen.tokens.slice(seen.start).map(named));
  const texts = element.closest("#written, #turns");
  if (texts && !texts.parentElement?.querySelector(".colours")) texts.after(legend());
}

/** What the colours of tokens say. */
function legend() {
  return make(
    "div",
    { className: "faint colours" },
    make(
      "p",
      { className: "legend" },
      "it was surprised ",
      make("span", { className: "scale" }),
      " it expected this",
    ),
    make("p", { textContent: "Point at a token, or tap it, to see what else it expected there." }),
  );
}

/** The token between texts, in words: where it is expected, the text is expected to end. @param {{text: string}} token */
function named(token) {
  /** @type {any} */
  const { text, expected } = token;
  return {
    ...token,
    text: text === "<bos>" ? "(end)" : text,
    ...(expected && { expected: expected.map(named) }),
  };
}

const temperature = () => Number(at("temperature").value);
let seed = 1;

async function write() {
  const prompt = at("prompt").value;
  const texts = await ask("generate", { prompt, temperature: temperature(), seed: seed++ * 100 });
  const answers = texts.map((/** @type {string} */ textContent) => make("span", { textContent }));
  const lines = answers.map((/** @type {HTMLElement} */ answer) =>
    make("p", { className: "written" }, make("span", { className: "faint", textContent: prompt }), answer)
  );
  at("written").replaceChildren(...lines);
  for (const [i, text] of texts.entries()) {
    if (text !== "") await colour(answers[i], { text: prompt, answer: text });
    else answers[i].append(make("span", { className: "faint", textContent: "(nothing: it ended at once)" }));
  }
}
at("write").onclick = () => attempt(write, at("write"));

/** Longer conversations are not coloured: the reference device, which looks at them, is slow. */
const MOST_COLOURED = 300;

/** @type {{role: "user" | "assistant", content: string}[]} */
let conversation = [];
/** what is being answered in @type {HTMLElement} */
let answering;
hear({ piece: (piece) => answering.append(piece) });

/** @param {string} role @param {string} textContent */
function addTurn(role, textContent) {
  const turn = make("div", { className: `turn ${role}`, textContent });
  at("turns").append(turn);
  return turn;
}

async function say() {
  const content = at("say").value.trim();
  if (!content) return;
  at("say").value = "";
  addTurn("user", content);
  conversation.push({ role: "user", content });
  const turn = answering = addTurn("assistant", "");
  const answer = await ask("chat", { text: content, temperature: temperature() });
  const said = conversation.reduce((sum, { content }) => sum + content.length, answer.length);
  if (answer !== "" && said < MOST_COLOURED) await colour(turn, { messages: conversation, answer });
  conversation.push({ role: "assistant", content: answer });
}
at("send").onclick = () => attempt(say, at("send"));
at("new-chat").onclick = () =>
  attempt(() => {
    conversation = [];
    at("turns").replaceChildren();
    return calls.call("newChat");
  });

// What it sees --------------------------------------------------------------------------------------------------------

async function look() {
  const { tokens, next, attention } = await ask("inspect", { text: at("look-at").value });
  const line = make("p", { className: "written" });
  // whatever begins every text was never to be expected
  const first = { ...tokens[0], text: "(start)", probability: undefined };
  new TokenText(line, at("expected")).set([first, ...tokens.slice(1).map(named)]);
  at("seen").replaceChildren(
    make("h3", { textContent: "How probable it found each token" }),
    line,
    legend(),
    make("h3", { textContent: "What it expects next" }),
    probabilityBars(next.map(named)),
    make("h3", { textContent: "Where its attention goes" }),
    attentionView(
      ["(start)", ...tokens.slice(1).map((/** @type {any} */ token) => named(token).text)],
      attention,
    ),
  );
}
at("look").onclick = () => attempt(look, at("look"));

// Take it home --------------------------------------------------------------------------------------------------------

/** @param {"model" | "hf" | "gguf" | "onnx"} kind */
async function take(kind) {
  at("take-note").textContent = "Putting it together…";
  const { name, file } = await ask("take", { kind }).catch((error) => {
    at("take-note").textContent = "";
    throw error;
  });
  download(name, file);
  at("take-note").textContent = `${name}: ${sizeOf(file.size)}`;
}
const KINDS = /** @type {const} */ (["model", "hf", "gguf", "onnx"]);
for (const kind of KINDS) at(`take-${kind}`).onclick = () => attempt(() => take(kind), at(`take-${kind}`));

for (const [field, button] of [["prompt", "write"], ["say", "send"], ["look-at", "look"]]) {
  at(field).onkeydown = (/** @type {KeyboardEvent} */ { key }) => key === "Enter" && at(button).click();
}

onChange(() => {
  const { training, model } = state;
  const off = training || !model;
  for (const id of ["write", "send", "look", ...KINDS.map((kind) => `take-${kind}`)]) at(id).disabled = off;
  at("busy").hidden = !training;
  offerTabs();
});
