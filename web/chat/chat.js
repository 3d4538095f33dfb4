/** The view in which one talks with the model. */
import { ask, stream } from "./api.js";
import { announce, at, button, count, make, tell } from "../shared/page.js";
import { add, branches, choose, newConversation, path, remove, ROOT } from "./tree.js";

/**
 * @typedef {import("./tree.js").Conversation} Conversation
 * @typedef {import("./tree.js").Message} Message
 * @typedef {{id: string, max_model_len: number, meta: any}} Model
 */

/** How often what is being written is kept, so that closing the page loses little. */
const KEEP_MS = 1000;

/** One conversation, and what is said in it. */
export class Chat {
  /** @type {Conversation} */
  conversation = newConversation();
  /** what is being written @type {{message: Message, text: Text, stop: AbortController, keeps: Conversation} | undefined} */
  #writing;
  /** @type {string | undefined} */
  #editing;

  /**
   * @param {Model} model
   * @param {import("./settings.js").Settings} settings
   * @param {(conversation: Conversation) => Promise<void>} keep
   */
  constructor(model, settings, keep) {
    this.model = model;
    this.settings = settings;
    this.keep = keep;
    at("composer").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.say();
    };
    at("say").onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.say();
      } else if (event.key === "ArrowUp" && at("say").value === "") {
        event.preventDefault();
        this.editLast();
      }
    };
    at("stop").onclick = () => this.stop();
    this.show();
  }

  /** Shows another conversation; what is being written in this one ends. @param {Conversation} conversation */
  open(conversation) {
    this.stop();
    this.conversation = conversation;
    this.#editing = undefined;
    this.show();
    at("turns").scrollTop = at("turns").scrollHeight;
    at("say").focus();
  }

  /** Sends what was typed. */
  say() {
    const content = at("say").value.trim();
    if (content === "" || this.#writing) return;
    at("say").value = "";
    const parent = path(this.conversation).at(-1)?.id ?? ROOT;
    add(this.conversation, parent, "user", content);
    return this.answer();
  }

  /** Another answer to the last question that is shown. */
  again() {
    const shown = path(this.conversation);
    const last = shown.at(-1);
    if (this.#writing || !last) return;
    return this.answer(last.role === "user" ? last : shown.at(-2));
  }

  stop() {
    this.#writing?.stop.abort();
  }

  editLast() {
    const last = path(this.conversation).findLast(({ role }) => role === "user");
    if (last && !this.#writing) this.#edit(last);
  }

  /** Lets the model answer. @param {Message | undefined} question default: the last message that is shown */
  async answer(question = path(this.conversation).at(-1)) {
    if (!question) return;
    const { conversation } = this;
    let fields;
    try {
      fields = this.settings.fields("chat");
    } catch (error) {
      this.show();
      return tell(error);
    }
    conversation.system = this.settings.system;
    choose(conversation, question);
    delete conversation.chosen[question.id];
    const said = path(conversation).map(({ role, content }) => ({ role, content }));
    const messages = conversation.system ? [{ role: "system", content: conversation.system }, ...said] : said;
    const message = add(conversation, question.id, "assistant", "");
    const stop = new AbortController();
    const writing = { message, text: new Text(""), stop, keeps: conversation };
    this.#writing = writing;
    this.show();
    at("turns").scrollTop = at("turns").scrollHeight;
    announce("the model writes");
    try {
      await this.#write(writing, { ...fields, messages });
    } catch (error) {
      if (stop.signal.aborted) message.note = "stopped";
      else {
        tell(error);
        message.note = "broken off";
      }
      if (message.content === "") remove(conversation, message);
    }
    this.#writing = undefined;
    announce(message.content === "" ? "no answer" : `answer: ${message.content}`);
    if (this.conversation === conversation) this.show();
    await this.keep(conversation);
  }

  /** @param {NonNullable<Chat["writing"]>} writing @param {object} request */
  async #write({ message, text, stop, keeps }, request) {
    let [first, kept, pieces] = [0, performance.now(), 0];
    const body = { ...request, model: this.model.id, stream_options: { include_usage: true } };
    for await (const event of stream("v1/chat/completions", body, stop.signal)) {
      const [choice] = event.choices;
      const piece = choice?.delta.content ?? "";
      if (piece !== "") {
        if (pieces++ === 0) first = performance.now();
        const isAtEnd = nearEnd(at("turns"));
        message.content += piece;
        text.data = message.content;
        if (isAtEnd) at("turns").scrollTop = at("turns").scrollHeight;
        const seconds = (performance.now() - first) / 1000;
        if (pieces > 4) at("speed").textContent = `${Math.round((pieces - 1) / seconds)} tokens/s`;
        if (performance.now() - kept > KEEP_MS) {
          kept = performance.now();
          await this.keep(keeps);
        }
      }
      if (choice?.finish_reason) finish(message, choice.finish_reason, event.microgpt);
      if (event.usage) message.used = event.usage.prompt_tokens + event.usage.completion_tokens;
    }
  }

  /** Shows the conversation as it is. */
  show() {
    const shown = path(this.conversation);
    const { meta } = this.model;
    const welcome = () =>
      make(
        "div",
        { className: "welcome" },
        make("h2", { textContent: "Say something" }),
        make("p", {
          className: "faint",
          textContent: `${this.model.id}: ${count(meta.n_params)} parameters on ${meta.device}, ` +
            `with a context of ${
              count(this.model.max_model_len)
            } tokens. Conversations stay in this browser.`,
        }),
      );
    const isAtEnd = nearEnd(at("turns"));
    at("turns").replaceChildren(
      ...shown.length === 0 ? [welcome()] : shown.map((message) => this.#turn(message, shown)),
    );
    if (isAtEnd) at("turns").scrollTop = at("turns").scrollHeight;
    const busy = this.#writing?.keeps === this.conversation;
    at("stop").hidden = !busy;
    at("send").hidden = busy;
    this.#showMeter(shown.findLast(({ used }) => used !== undefined));
  }

  /** @param {Message | undefined} message the last whose length is known */
  #showMeter(message) {
    const { dropped = 0, speed } = message ?? {};
    const most = this.model.max_model_len;
    const used = Math.min(most, message?.used ?? 0); // the last token of all is drawn, and not fed
    Object.assign(at("context"), { max: most, high: most * 0.75, optimum: 0, value: used });
    at("context").title = `${count(used)} of ${count(most)} tokens of the context`;
    at("context-text").textContent = `${count(used)} / ${count(most)}` +
      (dropped > 0 ? ` · ${count(dropped)} tokens dropped` : "");
    if (!this.#writing) at("speed").textContent = speed === undefined ? "" : `${count(speed)} tokens/s`;
  }

  /** @param {Message} message @param {Message[]} shown */
  #turn(message, shown) {
    const isUser = message.role === "user";
    const turn = make("article", { className: `said ${message.role}` });
    turn.setAttribute("aria-label", isUser ? "you" : "the model");
    if (this.#editing === message.id) {
      turn.append(this.#editor(message));
      return turn;
    }
    const isWritten = this.#writing?.message === message;
    const text = make("div", { className: isWritten ? "text written" : "text" });
    const node = isWritten ? /** @type {any} */ (this.#writing).text : new Text(message.content);
    node.data = message.content;
    text.append(node);
    turn.append(text);
    if (!isWritten) turn.append(this.#tools(message, shown.at(-1) === message));
    return turn;
  }

  /** @param {Message} message @param {boolean} isLast */
  #tools(message, isLast) {
    const tools = make("div", { className: "tools" });
    const all = branches(this.conversation, message);
    if (all.length > 1) tools.append(this.#switch(message, all));
    const isUser = message.role === "user";
    if (isUser && isLast) tools.append(button("Ask", () => this.answer(message), "ask for an answer"));
    if (!isUser) {
      const parent = this.conversation.messages.find(({ id }) => id === message.parent);
      tools.append(button("Regenerate", () => this.#writing || this.answer(parent)));
    }
    tools.append(
      button("Edit", () => this.#writing || this.#edit(message)),
      button(
        "Copy",
        () => navigator.clipboard.writeText(message.content).then(() => announce("copied"), tell),
      ),
      button("Delete", () => this.#writing || this.#remove(message), "delete this and what follows"),
    );
    if (message.note) tools.append(make("small", { textContent: message.note }));
    if (message.dropped) {
      const dropped = `${count(message.dropped)} tokens dropped`;
      tools.append(make("small", {
        className: "warn",
        textContent: dropped,
        title: "the conversation is longer than the context: its oldest turns were left out",
      }));
    }
    return tools;
  }

  /** Goes to the branches beside a message. @param {Message} message @param {Message[]} all */
  #switch(message, all) {
    const place = all.indexOf(message);
    const go = (/** @type {number} */ by) => () => {
      if (this.#writing) return;
      choose(this.conversation, all[(place + by + all.length) % all.length]);
      this.show();
      this.keep(this.conversation);
    };
    const group = make(
      "span",
      { className: "branches" },
      button("‹", go(-1), "previous branch"),
      `${place + 1}/${all.length}`,
      button("›", go(1), "next branch"),
    );
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `branch ${place + 1} of ${all.length}`);
    return group;
  }

  /** @param {Message} message */
  #edit(message) {
    this.#editing = message.id;
    this.show();
    const field = at("edited");
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  /** @param {Message} message */
  #remove(message) {
    remove(this.conversation, message);
    this.show();
    return this.keep(this.conversation);
  }

  /** What an edited message becomes is a branch beside it; to a question the model answers anew. @param {Message} message */
  #editor(message) {
    const isUser = message.role === "user";
    const field = make("textarea", { id: "edited", value: message.content });
    field.setAttribute("aria-label", "edited message");
    const close = () => {
      this.#editing = undefined;
      this.show();
      at("say").focus();
    };
    const save = () => {
      const content = field.value.trim();
      if (content === "" || content === message.content) return close();
      this.#editing = undefined;
      const edited = add(this.conversation, message.parent, message.role, content);
      if (isUser) return this.answer(edited);
      edited.note = "edited";
      this.show();
      return this.keep(this.conversation);
    };
    field.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    const send = button(isUser ? "Send" : "Save", save);
    send.classList.add("main");
    return make(
      "div",
      { className: "editor" },
      field,
      make("div", { className: "row" }, send, button("Cancel", close)),
    );
  }
}

/** Whether the end of what is scrolled can be seen. @param {HTMLElement} element */
function nearEnd({ scrollTop, clientHeight, scrollHeight }) {
  return scrollTop + clientHeight > scrollHeight - 40;
}

/** What the server says at the end of an answer. @param {Message} message @param {string} reason @param {any} told */
function finish(message, reason, told) {
  const notes = reason === "length" ? ["cut off: no more tokens were left"] : [];
  if (told) {
    message.dropped = told.tokens_dropped;
    message.speed = Math.round(told.tokens_per_second);
    notes.push(`seed ${told.seed}`);
  }
  message.note = notes.join(" · ");
}

/** The model that the server has. @returns {Promise<Model | undefined>} undefined: none, it shows runs only */
export async function servedModel() {
  const { data } = await (await ask("v1/models")).json();
  return data[0];
}
