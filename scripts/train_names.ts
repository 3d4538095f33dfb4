/** `deno task train`: trains on the sample names. Flags that are given win, for the program takes each flag once. */
import { main } from "../cli.ts";

const FLAGS = [
  ["--preset", "names"],
  ["--input", "data/samples/names.txt"],
  ["--output", "names-model"],
] as const;

const isGiven = (flag: string) => Deno.args.some((word) => word === flag || word.startsWith(`${flag}=`));
const words = FLAGS.filter(([flag]) => !isGiven(flag)).flat();
Deno.exit(await main(["train", ...words, ...Deno.args]));
