/**
 * Writes the Homebrew formula of a release from its checksums file:
 *
 *   deno task homebrew --repository https://github.com/OWNER/microgpt checksums.txt > microgpt.rb
 *
 * The checksums file is what `sha256sum` prints: one line for each asset, with the names of {@link programAsset} and
 * {@link chatModelAsset}.
 */
import { parseArgs } from "node:util";
import project from "../deno.json" with { type: "json" };
import { MicrogptError } from "../device/errors.ts";

/** The systems that Homebrew runs on. */
const PLATFORMS = [
  { system: "macos", processor: "arm", target: "aarch64-apple-darwin" },
  { system: "macos", processor: "intel", target: "x86_64-apple-darwin" },
  { system: "linux", processor: "arm", target: "aarch64-unknown-linux-gnu" },
  { system: "linux", processor: "intel", target: "x86_64-unknown-linux-gnu" },
];

/** The asset with the program, in an archive by itself. */
export function programAsset(version: string, target: string): string {
  return `microgpt-${version}-${target}.tar.gz`;
}

/** The asset with the default chat model, in an archive with one folder. */
export function chatModelAsset(version: string): string {
  return `default-chat-model-${version}.tar.gz`;
}

/** What a formula is made of. */
export interface Release {
  /** "https://github.com/OWNER/microgpt" */
  repository: string;
  version: string;
  /** the text of the checksums file */
  checksums: string;
}

/**
 * The formula.
 * @throws {MicrogptError} when the checksums file is malformed or lacks an asset
 */
export function homebrewFormula({ repository, version, checksums }: Release): string {
  const home = new URL(repository).href.replace(/\/+$/, "");
  const sums = parseChecksums(checksums);
  const source = (asset: string) => {
    const sum = sums.get(asset);
    if (sum === undefined) throw new MicrogptError(`the checksums have no line for ${asset}`);
    return [`url "${home}/releases/download/v${version}/${asset}"`, `sha256 "${sum}"`];
  };
  const systems = ["macos", "linux"].flatMap((system) => [
    ...block(
      `on_${system} do`,
      PLATFORMS.filter((platform) => platform.system === system).flatMap(({ processor, target }) =>
        block(`on_${processor} do`, source(programAsset(version, target)))
      ),
    ),
    "",
  ]);
  const body = [
    'desc "Train small GPTs on your own text, then generate, chat and export"',
    `homepage "${home}"`,
    `version "${version}"`,
    'license "MIT"',
    "",
    ...systems,
    ...block('resource "default-chat-model" do', source(chatModelAsset(version))),
    "",
    ...INSTALL_AND_TEST,
  ];
  return block("class Microgpt < Formula", body).join("\n") + "\n";
}

const INSTALL_AND_TEST = `
def install
  bin.install "microgpt"
  resource("default-chat-model").stage do
    (share/"microgpt/default-chat-model").install Dir["*"]
  end
  generate_completions_from_executable(bin/"microgpt", "completions")
end

test do
  (testpath/"names.txt").write(%w[anna bella carla dora emma frida greta hanna].join("\\n"))
  small = %w[--steps 5 --vocab-size 260 --n-embd 16 --n-layer 1 --block-size 16]
  system bin/"microgpt", "train", "--input", "names.txt", "--output", "model", *small
  assert_match "sample  1:", shell_output("#{bin}/microgpt generate --model-dir model --num-samples 1")
end`.trim().split("\n");

function block(opening: string, lines: string[]): string[] {
  return [opening, ...lines.map((line) => line === "" ? "" : `  ${line}`), "end"];
}

/** Names and sums of a file that \`sha256sum\` wrote. */
function parseChecksums(text: string): Map<string, string> {
  const sums = new Map<string, string>();
  for (const line of text.split("\n")) {
    if (line.trim() === "") continue;
    const [, sum, name] = /^([0-9a-f]{64}) [ *](\S+)$/.exec(line.trimEnd()) ?? [];
    if (sum === undefined || name === undefined) {
      throw new MicrogptError(`not a line of sha256sum: ${JSON.stringify(line.slice(0, 100))}`);
    }
    sums.set(name, sum);
  }
  return sums;
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    options: { repository: { type: "string" }, version: { type: "string", default: project.version } },
    allowPositionals: true,
  });
  if (values.repository === undefined || positionals.length !== 1) {
    console.error("usage: deno task homebrew --repository URL [--version V] CHECKSUMS");
    Deno.exit(2);
  }
  const { repository, version } = values;
  const formula = homebrewFormula({
    repository,
    version,
    checksums: await Deno.readTextFile(positionals[0]!),
  });
  await Deno.stdout.write(new TextEncoder().encode(formula));
}
