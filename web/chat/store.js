/** Conversations in the browser's own database. */

/** @typedef {import("./tree.js").Conversation} Conversation */

const NAME = "microgpt";
const TABLE = "conversations";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Keeps conversations from one visit to the next. */
export class Store {
  /** @param {IDBDatabase} database */
  constructor(database) {
    this.database = database;
  }

  /** @returns {Promise<Store>} @throws {Error} where the browser keeps nothing, as in some private windows */
  static async open() {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    return new Store(await done(request));
  }

  /** @param {IDBTransactionMode} mode */
  #table(mode) {
    return this.database.transaction(TABLE, mode).objectStore(TABLE);
  }

  /** The latest first. @returns {Promise<Conversation[]>} */
  async all() {
    const all = await done(this.#table("readonly").getAll());
    return all.sort((a, b) => b.changed - a.changed);
  }

  /** @param {Conversation} conversation */
  async put(conversation) {
    await done(this.#table("readwrite").put(conversation));
  }

  /** @param {string} id */
  async remove(id) {
    await done(this.#table("readwrite").delete(id));
  }
}
