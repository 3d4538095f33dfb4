/** The page at `/`: files of `web/`, as they are, which are part of the program. */
import api from "../../web/chat/api.js" with { type: "text" };
import chat from "../../web/chat/chat.js" with { type: "text" };
import complete from "../../web/chat/complete.js" with { type: "text" };
import icon from "../../web/chat/icon.svg" with { type: "text" };
import index from "../../web/chat/index.html" with { type: "text" };
import main from "../../web/chat/main.js" with { type: "text" };
import settings from "../../web/chat/settings.js" with { type: "text" };
import store from "../../web/chat/store.js" with { type: "text" };
import style from "../../web/chat/style.css" with { type: "text" };
import tree from "../../web/chat/tree.js" with { type: "text" };
import watch from "../../web/chat/watch.js" with { type: "text" };
import curves from "../../web/shared/curves.js" with { type: "text" };
import page from "../../web/shared/page.js" with { type: "text" };
import run from "../../web/shared/run.js" with { type: "text" };
import sharedStyle from "../../web/shared/style.css" with { type: "text" };
import tokenText from "../../web/shared/token_text.js" with { type: "text" };
import tokens from "../../web/shared/tokens.js" with { type: "text" };

/** What the page may do: load what is here and ask this server, nothing else; no script or style stands in its HTML. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join("; ");

const TYPES: Record<string, string> = {
  html: "text/html",
  js: "text/javascript",
  css: "text/css",
  svg: "image/svg+xml",
};

/** Files by their paths. Addresses in them are relative, so that the page works wherever the server is mounted. */
const FILES: Record<string, string> = {
  "/": index,
  "/page/chat/api.js": api,
  "/page/chat/chat.js": chat,
  "/page/chat/complete.js": complete,
  "/page/chat/icon.svg": icon,
  "/page/chat/main.js": main,
  "/page/chat/settings.js": settings,
  "/page/chat/store.js": store,
  "/page/chat/style.css": style,
  "/page/chat/tree.js": tree,
  "/page/chat/watch.js": watch,
  "/page/shared/curves.js": curves,
  "/page/shared/page.js": page,
  "/page/shared/run.js": run,
  "/page/shared/style.css": sharedStyle,
  "/page/shared/token_text.js": tokenText,
  "/page/shared/tokens.js": tokens,
};

/** The paths of the page, which need no key: a browser shows it before it knows one. */
export const PAGE_PATHS: readonly string[] = Object.keys(FILES);

/** Answers with a file of the page. @param path one of `PAGE_PATHS` */
export function pageFile(path: string): Response {
  const extension = path === "/" ? "html" : path.slice(path.lastIndexOf(".") + 1);
  return new Response(FILES[path], {
    headers: {
      "content-type": `${TYPES[extension]}; charset=utf-8`,
      "cache-control": "no-cache",
      "content-security-policy": POLICY,
    },
  });
}
