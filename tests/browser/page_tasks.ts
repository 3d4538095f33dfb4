/**
 * What the main thread of a page computes, task by task, from Chromium's own trace. Counted is the processor's time of a
 * task, not the time on the clock, in which a busy machine lets others go first.
 */
import type { CDPSession, Page } from "npm:puppeteer-core@25.16.0";

/** The category that has tasks of pages' threads, and few other events. */
const CATEGORY = "disabled-by-default-devtools.timeline";

interface TraceEvent {
  name: string;
  ph: string;
  pid: number;
  tid: number;
  /** microseconds: when, how long, how long of the processor's time */
  ts: number;
  dur?: number;
  tdur?: number;
  args: { name?: string };
}

/** A task, in milliseconds. */
export interface PageTask {
  /** of the processor */
  computed: number;
  /** on the clock */
  lasted: number;
  /** the longest parts of it */
  parts: string;
}

/** The three longest things that a task did. */
function partsOf({ pid, tid, ts, dur }: TraceEvent, events: TraceEvent[]): string {
  return events.filter((event) =>
    event.pid === pid && event.tid === tid && event.ts >= ts && event.ts < ts + dur! &&
    event.name !== "RunTask"
  ).sort((a, b) => b.tdur! - a.tdur!).slice(0, 3).map(({ name, tdur }) => `${name} ${tdur! / 1000} ms`)
    .join(", ");
}

/** Watches the tasks of a page's main thread until `stop`. */
export class PageTasks {
  readonly #events: TraceEvent[] = [];

  private constructor(readonly session: CDPSession) {
    session.on(
      "Tracing.dataCollected",
      ({ value }) => this.#events.push(...value as unknown as TraceEvent[]),
    );
  }

  static async watch(page: Page): Promise<PageTasks> {
    const tasks = new PageTasks(await page.createCDPSession());
    const traceConfig = { excludedCategories: ["*"], includedCategories: [CATEGORY] };
    await tasks.session.send("Tracing.start", { traceConfig, transferMode: "ReportEvents" });
    return tasks;
  }

  /** @returns the tasks that computed most, the longest first */
  async stop(): Promise<PageTask[]> {
    const complete = new Promise((resolve) => this.session.once("Tracing.tracingComplete", resolve));
    await this.session.send("Tracing.end");
    await complete;
    await this.session.detach();
    const threads = new Set(
      this.#events.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain")
        .map(({ pid, tid }) => `${pid} ${tid}`),
    );
    const events = this.#events.filter(({ ph, pid, tid }) => ph === "X" && threads.has(`${pid} ${tid}`));
    const tasks = events.filter(({ name }) => name === "RunTask");
    return tasks.sort((a, b) => b.tdur! - a.tdur!).slice(0, 5).map((task) => ({
      computed: task.tdur! / 1000,
      lasted: task.dur! / 1000,
      parts: partsOf(task, events),
    }));
  }
}
