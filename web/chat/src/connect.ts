// Meets the server: which models it has, what memory it takes, whether it wants a key.
import * as api from "./api";
import { refreshHealth, resumeRefused } from "./answer";
import { getState, toast, update } from "./store";

const MODEL_KEY = "ingle.model";

function rememberedModel(): string | null {
  try {
    return localStorage.getItem(MODEL_KEY);
  } catch {
    return null;
  }
}

export function chooseModel(model: string): void {
  update({ model });
  try {
    localStorage.setItem(MODEL_KEY, model);
  } catch {
    // the next visit then begins with the server's first model
  }
}

/** `withKey`: a person has just given one; what was refused before is asked again. */
export async function connect(withKey = false): Promise<void> {
  try {
    const models = await api.models();
    const wanted = getState().model ?? rememberedModel();
    update({ models, model: models.find((name) => name === wanted) ?? models[0] ?? null, keyRefused: false });
    if (withKey) {
      update({ dialog: null });
      resumeRefused();
    }
  } catch (error) {
    if (error instanceof api.ApiError && error.status === 401) update({ dialog: "key", keyRefused: api.hasKey() });
    else toast(error instanceof api.ApiError ? error.message : "The server sent something that is no list of models.");
  }
  await refreshHealth();
}
