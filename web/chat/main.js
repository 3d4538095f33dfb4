/** The server's page: its views, and what is around them. */
import { ApiError, setKeyDialog } from "./api.js";
import { Chat, servedModel } from "./chat.js";
import { Completion } from "./complete.js";
import { announce, at, button, download, make, tell } from "../shared/page.js";
import { Settings } from "./settings.js";
import { Store } from "./store.js";
import { Watch, watchedRuns } from "./watch.js";
import { fromJsonl, jsonl, newConversation, turns } from "./tree.js";

/** @typedef {import("./tree.js").Conversation} Conversation */

const THEME = "microgpt.theme";
const RETRY_MS = 1000;
/** Wide enough for conversations and settings beside a view. */
const WIDE = matchMedia("(min-width: 60rem)");

/** @type {Chat | undefined} */
let chat;
/** @type {Completion | undefined} */
let completion;
/** @type {Store | undefined} */
let store;
const settings = new Settings(at("setting-fields"));

// Views -------------------------------------------------------------------------------------------------------------

const VIEWS = ["chat", "complete", "watch"];

/** @param {string} name */
function showView(name) {
  for (const view of VIEWS) {
    const isShown = view === name;
    at(`tab-${view}`).setAttribute("aria-selected", String(isShown));
    at(`tab-${view}`).tabIndex = isShown ? 0 : -1;
    if (at(view)) at(view).hidden = !isShown;
  }
  document.body.dataset.view = name;
  showAddress();
  for (const field of document.querySelectorAll(".field[data-view]")) {
    /** @type {HTMLElement} */ (field).hidden = /** @type {HTMLElement} */ (field).dataset.view !== name;
  }
  at("show-conversations").hidden = name !== "chat";
  at("show-settings").hidden = name === "watch";
  showPanel("conversations", name === "chat" && WIDE.matches);
  if (name === "watch" || !WIDE.matches) showPanel("settings", false);
}

/** The address leads here again, also to this conversation. */
function showAddress() {
  const { view } = document.body.dataset;
  const { conversation } = chat ?? {};
  const isKept = view === "chat" && conversation && conversations.includes(conversation);
  history.replaceState(null, "", isKept ? `#chat/${conversation.id}` : `#${view}`);
}

for (const view of VIEWS) at(`tab-${view}`).onclick = () => showView(view);
at("tabs").onkeydown = (/** @type {KeyboardEvent} */ event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by === undefined) return;
  const open = VIEWS.filter((view) => !at(`tab-${view}`).hidden);
  const next = open[(open.indexOf(document.body.dataset.view ?? "") + by + open.length) % open.length];
  showView(next);
  at(`tab-${next}`).focus();
};

// Panels and dialogs ------------------------------------------------------------------------------------------------

/** @param {"conversations" | "settings"} id @param {boolean} open */
function showPanel(id, open) {
  at(id).hidden = !open;
  at(`show-${id}`).setAttribute("aria-expanded", String(open));
}

for (const id of /** @type {const} */ (["conversations", "settings"])) {
  const toggle = () => {
    showPanel(id, at(id).hidden);
    if (!at(id).hidden) at(id).querySelector("button, input, textarea").focus();
  };
  at(`show-${id}`).onclick = toggle;
  at(id).querySelector(".close").onclick = () => {
    showPanel(id, false);
    at(`show-${id}`).focus();
  };
}
WIDE.addEventListener("change", () => {
  showPanel("conversations", WIDE.matches && document.body.dataset.view === "chat");
  if (!WIDE.matches) showPanel("settings", false);
});
at("reset-settings").onclick = () => settings.reset();
at("show-keys").onclick = () => at("keys-dialog").showModal();

/** @param {HTMLDialogElement} dialog @returns {Promise<boolean>} */
function confirmed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true });
  });
}

setKeyDialog(async () => {
  at("key").value = "";
  if (!await confirmed(at("key-dialog"))) return undefined;
  return { key: at("key").value, keep: at("keep-key").checked };
});

const THEMES = ["light dark", "light", "dark"];
const THEME_NAMES = ["as the system has them", "light", "dark"];

/** @param {string} theme */
function showTheme(theme) {
  const known = THEMES.includes(theme) ? theme : THEMES[0];
  document.documentElement.style.colorScheme = known;
  at("theme").dataset.theme = known;
  at("theme").title = `colours: ${THEME_NAMES[THEMES.indexOf(known)]}`;
  at("theme").setAttribute("aria-label", at("theme").title);
  return known;
}

let theme = showTheme(localStorage.getItem(THEME) ?? "");
at("theme").onclick = () => {
  theme = showTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]);
  localStorage.setItem(THEME, theme);
};

// Conversations -----------------------------------------------------------------------------------------------------

/** @type {Conversation[]} */
let conversations = [];

/** @param {Conversation} conversation */
async function keep(conversation) {
  if (conversation.forgotten) return;
  if (!conversations.includes(conversation)) conversations.unshift(conversation);
  listConversations();
  try {
    await store?.put(conversation);
  } catch (error) {
    tell(`this conversation could not be kept in the browser: ${/** @type {Error} */ (error).message}`);
  }
}

function listConversations() {
  showAddress();
  const sought = at("search").value.trim().toLowerCase();
  const isSought = ({ title, messages }) =>
    [title, ...messages.map(({ content }) => content)].some((text) => text.toLowerCase().includes(sought));
  at("conversation-list").replaceChildren(
    ...conversations.filter(isSought).map((conversation) => {
      const open = make("button", {
        type: "button",
        className: "plain title",
        textContent: conversation.title || "empty",
        onclick: () => {
          chat?.open(conversation);
          listConversations();
          if (!WIDE.matches) showPanel("conversations", false);
        },
      });
      if (conversation === chat?.conversation) open.setAttribute("aria-current", "true");
      return make("li", {}, open, button("×", () => forget(conversation), `delete “${conversation.title}”`));
    }),
  );
}

/** @param {Conversation} conversation */
async function forget(conversation) {
  at("sure-text").textContent =
    `Delete “${conversation.title}” with its ${conversation.messages.length} messages?`;
  if (!await confirmed(at("sure-dialog"))) return;
  conversation.forgotten = true;
  conversations = conversations.filter((other) => other !== conversation);
  await store?.remove(conversation.id).catch(tell); // it is gone from the list once it is gone
  if (chat?.conversation === conversation) chat.open(newConversation());
  listConversations();
}

function startNew() {
  showView("chat");
  chat?.open(newConversation());
  listConversations();
}

/** @param {Conversation[]} all */
function exportJsonl(all) {
  const knowsSystem = chat?.model.meta.system ?? false;
  const text = jsonl(all.map((conversation) => turns(conversation, knowsSystem)));
  if (text === "") return tell("there is no conversation with an answer");
  const lines = text.split("\n").length - 1;
  const file = new Blob([text], { type: "application/x-ndjson" });
  download(`${chat?.model.id ?? "conversations"}.jsonl`, file);
  announce(`${lines} conversations exported`);
}

at("new-chat").onclick = startNew;
at("search").oninput = listConversations;
at("export-all").onclick = () => exportJsonl(conversations);
at("export-one").onclick = () => chat && exportJsonl([chat.conversation]);
at("import").onclick = () => at("import-file").click();
at("import-file").onchange = async () => {
  const [file] = at("import-file").files;
  at("import-file").value = "";
  if (!file) return;
  try {
    const all = fromJsonl(await file.text());
    for (const conversation of all.reverse()) await keep(conversation);
    announce(`${all.length} conversations imported`);
  } catch (error) {
    tell(`${file.name}: ${/** @type {Error} */ (error).message}`);
  }
};

// Keyboard ----------------------------------------------------------------------------------------------------------

/** By `code`: what Alt and a letter write differs between systems. @type {Record<string, () => unknown>} */
const KEYS = {
  KeyN: () => chat && startNew(),
  KeyR: () => chat?.again(),
  KeyS: () => at("show-settings").click(),
  ...Object.fromEntries(
    VIEWS.map((view, i) => [`Digit${i + 1}`, () => at(`tab-${view}`).hidden || showView(view)]),
  ),
};

addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (!WIDE.matches) {
      for (const id of ["conversations", "settings"]) showPanel(/** @type {any} */ (id), false);
    }
    chat?.stop();
    completion?.stop();
  }
  const action = event.altKey && !event.ctrlKey && !event.metaKey ? KEYS[event.code] : undefined;
  if (!action) return;
  event.preventDefault();
  action();
});

// Start -------------------------------------------------------------------------------------------------------------

/** Waits while the model loads. */
async function connected() {
  for (;;) {
    try {
      return await servedModel();
    } catch (error) {
      if (!(error instanceof ApiError && (error.status === 503 || error.status === 0))) throw error;
      at("model").textContent = error.status === 503 ? "loading the model…" : error.message;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

/** @param {import("./chat.js").Model} model */
async function startChat(model) {
  try {
    store = await Store.open();
    conversations = await store.all();
  } catch (error) {
    tell(`this browser keeps no conversations: ${/** @type {Error} */ (error).message}`);
  }
  chat = new Chat(model, settings, keep);
  at("tab-chat").hidden = false;
}

async function start() {
  const model = await connected();
  const { watching } = await watchedRuns();
  if (watching) at("tab-watch").hidden = false;
  if (!model) at("model").textContent = "training runs";
  else {
    at("model").textContent = model.id;
    document.title = `${model.id} · microgpt`;
    settings.showDefaults(model.meta.defaults);
    if (model.meta.chat) await startChat(model);
    completion = new Completion(model, settings);
    at("tab-complete").hidden = false;
  }
  const open = VIEWS.filter((view) => !at(`tab-${view}`).hidden);
  const [wanted = "", id] = location.hash.slice(1).split("/");
  const last = conversations.find((conversation) => conversation.id === id);
  if (last) chat?.open(last);
  showView(open.includes(wanted) ? wanted : open[0]);
  if (watching) new Watch().follow();
  if (chat) listConversations();
  document.body.dataset.ready = "";
}

start().catch((error) => {
  at("model").textContent = "not connected";
  tell(error);
});
