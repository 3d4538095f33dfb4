/** The page that trains, driven as a person does. */
import { join } from "node:path";
import type { Page } from "npm:puppeteer-core@25.16.0";

/** The text of an element. @param id without `#` */
export async function text(page: Page, id: string): Promise<string> {
  return await page.evaluate(`document.getElementById(${JSON.stringify(id)}).textContent`) as string;
}

/** Waits until an element's text is of a form. */
export async function says(page: Page, id: string, pattern: RegExp): Promise<void> {
  const condition = `${pattern}.test(document.getElementById(${JSON.stringify(id)}).textContent)`;
  await page.waitForFunction(condition, { timeout: 60_000 });
}

/** Waits until the page can train. */
export async function ready(page: Page): Promise<void> {
  await page.waitForSelector("body[data-ready]", { timeout: 60_000 });
  await page.waitForFunction("!document.getElementById('start').disabled", { timeout: 60_000 });
}

/** Clicks a button as soon as it is there and can be. */
export async function press(page: Page, id: string): Promise<void> {
  const button = `document.getElementById("${id}")`;
  await page.waitForFunction(`!${button}.disabled && !${button}.hidden`, { timeout: 60_000 });
  await page.evaluate(`document.getElementById("${id}").click()`); // whatever message lies over it
}

/** Clicks the button of a model that is kept, as soon as it can be. @param button what it says */
export async function pressKept(page: Page, name: string, button: string): Promise<void> {
  const found = `[...document.querySelectorAll("#kept .row")]
    .filter((row) => row.textContent.startsWith(${JSON.stringify(`${name}, `)}))
    .flatMap((row) => [...row.querySelectorAll("button")])
    .find((button) => button.textContent === ${JSON.stringify(button)})`;
  await page.waitForFunction(`${found}?.disabled === false`, { timeout: 60_000 });
  await page.evaluate(`${found}.click()`);
}

/** Chooses a file as a file dialog does. @param input id of the field */
export async function chooseFile(
  page: Page,
  name: string,
  contents: string | Uint8Array,
  input = "file",
): Promise<void> {
  const path = join(await Deno.makeTempDir(), name);
  if (typeof contents === "string") await Deno.writeTextFile(path, contents);
  else await Deno.writeFile(path, contents);
  const field = await page.$(`#${input}`);
  await (field as unknown as { uploadFile(path: string): Promise<void> }).uploadFile(path);
}

/** Drops a file of text on the page. */
export async function dropFile(page: Page, name: string, contents: string): Promise<void> {
  await page.evaluate(`{
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([${JSON.stringify(contents)}], ${JSON.stringify(name)}));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  }`);
}

/** Clicks a button, and waits for the file that the browser then stores. @returns its bytes */
export async function downloaded(page: Page, id: string): Promise<Uint8Array<ArrayBuffer>> {
  const downloadPath = await Deno.makeTempDir();
  const session = await page.createCDPSession();
  await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath, eventsEnabled: true });
  let name = "";
  session.on("Browser.downloadWillBegin", ({ suggestedFilename }) => name = suggestedFilename);
  const stored = new Promise<void>((resolve, reject) =>
    session.on("Browser.downloadProgress", ({ state }) => {
      if (state === "completed") resolve();
      if (state === "canceled") reject(new Error(`${name} was not stored`));
    })
  );
  await press(page, id);
  await stored;
  await session.detach();
  return await Deno.readFile(join(downloadPath, name));
}
