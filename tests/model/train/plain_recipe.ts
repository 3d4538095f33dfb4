/** What a test's recipe starts from, so that a new field of `Recipe` needs no change there. */
import { DEFAULTS } from "../../../model/settings.ts";
import { resolveRecipe } from "../../../model/train/resolve.ts";
import type { Recipe } from "../../../model/train/trainer.ts";

/** The recipe of the default settings. */
export const PLAIN: Recipe = resolveRecipe(DEFAULTS, 0, 1);
