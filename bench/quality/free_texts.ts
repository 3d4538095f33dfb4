/**
 * Makes plain text to train a base model on from free texts that Debian packages hold, one document a line:
 *
 *     mkdir free && cd free && apt-get download wordnet-base dict-foldoc dict-jargon postgresql-doc-15
 *     for f in *.deb; do dpkg -x $f files; done; cd ..
 *     deno run -A bench/quality/free_texts.ts free/files > free_texts.txt
 *
 * WordNet's definitions and examples, the Free On-line Dictionary of Computing, the Jargon File, and PostgreSQL's manual.
 */
import { gunzipSync } from "node:zlib";

const [folder] = Deno.args;
if (folder === undefined) throw new Error("usage: free_texts.ts FOLDER > TEXT");

const flat = (text: string) => text.replace(/\s+/gu, " ").trim();

/** Definitions and examples of a WordNet file, each after the words that it defines. */
function wordnet(text: string): string[] {
  return text.split("\n").filter((line) => /^\d/u.test(line)).map((line) => {
    const [data, gloss] = line.split(" | ") as [string, string];
    const fields = data.split(" ");
    const words = Array.from({ length: parseInt(fields[3]!, 16) }, (_, i) => fields[4 + 2 * i]!);
    return flat(`${words.join(", ").replaceAll("_", " ")}: ${gloss}`);
  });
}

/** Entries of a dictd file, which begin in the first column. */
function dictionary(bytes: Uint8Array): string[] {
  const text = new TextDecoder().decode(gunzipSync(bytes));
  return text.split(/\n(?=\S)/u).map(flat);
}

const ENTITIES: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', nbsp: " " };

/** Paragraphs of a page, in one document. */
function manual(html: string): string[] {
  const body = html.replace(/<(script|style|head)[\s\S]*?<\/\1>/gu, "").replace(/<[^>]*>/gu, "")
    .replace(/&#(x?)([\da-f]+);/giu, (_, hex, code) => String.fromCodePoint(parseInt(code, hex ? 16 : 10)))
    .replace(/&(\w+);/gu, (whole, name) => ENTITIES[name] ?? whole);
  return [flat(body)];
}

const documents: string[] = [];
const read = (path: string) => Deno.readFileSync(`${folder}/usr/share/${path}`);
const text = (path: string) => new TextDecoder().decode(read(path));
for (const kind of ["noun", "verb", "adj", "adv"]) documents.push(...wordnet(text(`wordnet/data.${kind}`)));
for (const name of ["foldoc", "jargon"]) documents.push(...dictionary(read(`dictd/${name}.dict.dz`)));
const pages = "doc/postgresql-doc-15/html";
for (
  const { name } of [...Deno.readDirSync(`${folder}/usr/share/${pages}`)].sort((a, b) =>
    a.name < b.name ? -1 : 1
  )
) {
  if (name.endsWith(".html") && name !== "bookindex.html") {
    documents.push(...manual(text(`${pages}/${name}`)));
  }
}
console.log(documents.filter((document) => document.length > 40).join("\n"));
