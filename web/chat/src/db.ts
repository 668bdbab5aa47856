// Conversations live in this browser's IndexedDB and nowhere else.
import type { Conversation } from "./types";

const STORE = "conversations";
let opened: Promise<IDBDatabase> | undefined;

function database(): Promise<IDBDatabase> {
  return (opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("ingle", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version open"));
  }));
}

async function transact<T>(mode: IDBTransactionMode, act: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const db = await database();
  return new Promise((resolve, reject) => {
    const transaction = db.transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

export const loadAll = (): Promise<Conversation[]> => transact("readonly", (store) => store.getAll());
export const load = (id: string): Promise<Conversation | undefined> => transact("readonly", (store) => store.get(id));
export const save = (conversation: Conversation): Promise<unknown> => transact("readwrite", (store) => store.put(conversation));
export const remove = (id: string): Promise<unknown> => transact("readwrite", (store) => store.delete(id));
