/** The examples of scripts/distributed/: each is read by its own tool where that is installed. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

const path = (name: string) => fileURLToPath(new URL(`../../scripts/distributed/${name}`, import.meta.url));

async function installed(program: string): Promise<boolean> {
  try {
    return (await new Deno.Command(program, { args: ["--version"] }).output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function toolTest(name: string, program: string, args: string[]): Promise<void> {
  const ignore = !await installed(program);
  Deno.test({
    name: ignore ? `${name} (skipped: no ${program})` : name,
    ignore,
    async fn() {
      const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
      const text = new TextDecoder();
      assert(success, text.decode(stdout) + text.decode(stderr));
    },
  });
}

await toolTest("bash reads the Slurm script", "bash", ["-n", path("slurm.sh")]);
await toolTest("shellcheck finds nothing in the Slurm script", "shellcheck", [path("slurm.sh")]);
await toolTest("Ruby reads the MPIJob, whose volumes exist", "ruby", [
  "-ryaml",
  "-e",
  `spec = YAML.load_file(ARGV[0])["spec"]["mpiReplicaSpecs"]
   spec.each_value do |role|
     pod = role["template"]["spec"]
     volumes = pod["volumes"].map { |volume| volume["name"] }
     pod["containers"].each { |one| one["volumeMounts"].each { |mount| abort mount["name"] unless volumes.include?(mount["name"]) } }
   end`,
  path("mpijob.yaml"),
]);

Deno.test("the hostfile has a line for each of the ranks that its command starts", async () => {
  const text = await Deno.readTextFile(path("macs.hosts"));
  const hosts = text.split("\n").filter((line) => /^[^#\s]\S* slots=1$/.test(line));
  assert.equal(hosts.length, Number(/-n (\d+)/.exec(text)![1]));
});
