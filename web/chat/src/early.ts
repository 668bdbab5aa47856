// Runs before the first paint, so that a chosen theme does not flash. Keep it small: it blocks rendering.
import { applyTheme, storedTheme } from "./theme";

applyTheme(storedTheme());
