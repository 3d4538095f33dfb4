/**
 * Conversations as trees: an edited message or another answer is a branch beside the first. `chosen` says which branch is
 * shown at each place.
 */

/**
 * @typedef {{
 *   id: string, parent: string, role: "user" | "assistant", content: string,
 *   note?: string, dropped?: number, used?: number, speed?: number,
 * }} Message `used`: tokens of the context after it
 * @typedef {{
 *   id: string, title: string, created: number, changed: number, system?: string,
 *   messages: Message[], chosen: Record<string, string>, forgotten?: boolean,
 * }} Conversation `forgotten`: it was deleted while its answer was still coming
 * @typedef {{role: string, content: string}} Turn
 */

/** The parent of first messages. */
export const ROOT = "";

const LONGEST_TITLE = 60;

/** @returns {Conversation} */
export function newConversation() {
  const now = Date.now();
  return { id: crypto.randomUUID(), title: "", created: now, changed: now, messages: [], chosen: {} };
}

/**
 * Adds a message, which is shown from now on.
 * @param {Conversation} conversation @param {string} parent @param {"user" | "assistant"} role @param {string} content
 */
export function add(conversation, parent, role, content) {
  /** @type {Message} */
  const message = { id: crypto.randomUUID(), parent, role, content };
  conversation.messages.push(message);
  conversation.chosen[parent] = message.id;
  conversation.changed = Date.now();
  if (conversation.title === "" && role === "user") {
    const line = content.trim().replace(/\s+/g, " ");
    conversation.title = line.length > LONGEST_TITLE ? `${line.slice(0, LONGEST_TITLE - 1)}…` : line;
  }
  return message;
}

/** The messages that are shown, from the first. @param {Conversation} conversation */
export function path({ messages, chosen }) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const shown = [];
  for (let at = byId.get(chosen[ROOT]); at; at = byId.get(chosen[at.id])) shown.push(at);
  return shown;
}

/** The branches at a message's place, itself among them. @param {Conversation} conversation @param {Message} message */
export function branches({ messages }, { parent }) {
  return messages.filter((other) => other.parent === parent);
}

/** Shows another branch, with what followed it. @param {Conversation} conversation @param {Message} message */
export function choose(conversation, message) {
  conversation.chosen[message.parent] = message.id;
}

/** Removes a message and all that follows it; a branch beside it is shown. @param {Conversation} conversation @param {Message} message */
export function remove(conversation, message) {
  const gone = new Set([message.id]);
  // children come after their parents
  for (const { id, parent } of conversation.messages) if (gone.has(parent)) gone.add(id);
  conversation.messages = conversation.messages.filter(({ id }) => !gone.has(id));
  for (const id of gone) delete conversation.chosen[id];
  const next = branches(conversation, message).at(-1);
  if (next) choose(conversation, next);
  else delete conversation.chosen[message.parent];
}

/**
 * What is shown of a conversation as `microgpt train --chat` reads it, up to the last answer.
 * @param {Conversation} conversation
 * @param {boolean} knowsSystem the model has system messages; else they stand in front of what the user says, as the
 * server puts them
 * @returns {Turn[]} none where there is no answer
 */
export function turns(conversation, knowsSystem) {
  const { system = "" } = conversation;
  const shown = path(conversation);
  const last = shown.findLastIndex(({ role }) => role === "assistant");
  const said = shown.slice(0, last + 1).map(({ role, content }) => ({ role, content }));
  if (system === "" || said.length === 0) return said;
  if (knowsSystem) return [{ role: "system", content: system }, ...said];
  return [{ role: said[0].role, content: `${system}\n\n${said[0].content}` }, ...said.slice(1)];
}

/** Conversations as JSONL. @param {Turn[][]} all those without an answer are left out */
export function jsonl(all) {
  return all.filter((said) => said.length > 0).map((said) => JSON.stringify(said) + "\n").join("");
}

/**
 * Conversations from JSONL.
 * @param {string} text @returns {Conversation[]}
 * @throws {Error} naming the line
 */
export function fromJsonl(text) {
  return text.split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    const wrong = (/** @type {string} */ what) => new Error(`line ${i + 1} ${what}`);
    let said;
    try {
      said = JSON.parse(line);
    } catch {
      throw wrong("is not JSON");
    }
    if (!Array.isArray(said)) throw wrong('is not a list of {"role", "content"}');
    const conversation = newConversation();
    let parent = ROOT;
    for (const { role, content } of said) {
      if (typeof content !== "string") throw wrong("has a message without a text");
      if (role === "system") conversation.system = content;
      else if (role === "user" || role === "assistant") parent = add(conversation, parent, role, content).id;
      else throw wrong(`has a role that is neither user nor assistant nor system`);
    }
    return parent === ROOT ? [] : [conversation];
  });
}
