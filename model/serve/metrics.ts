/** Counters in Prometheus' text format. All series are there from the start, at 0: else `increase()` misses the first request. */

/** A counter or a gauge, by the values of its one label. */
interface Series {
  type: "counter" | "gauge";
  help: string;
  label?: string;
  values: Map<string, number>;
  read?: () => number;
}

/** Endpoints that answers come from. */
export const ENDPOINTS = ["chat_completions", "completions", "chat", "generate"] as const;
export type Endpoint = typeof ENDPOINTS[number];

/** Upper bounds of the histograms' buckets. */
const DURATION_MS = [10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000];
const SPEED = [1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

interface Histogram {
  help: string;
  bounds: readonly number[];
  /** by endpoint: counts at or below each bound, sum and count */
  values: Map<string, { counts: number[]; sum: number; count: number }>;
}

/** What is counted. */
export class Metrics {
  readonly #series = new Map<string, Series>();
  readonly #histograms = new Map<string, Histogram>();

  constructor() {
    const counter = (name: string, help: string, label?: string, values: readonly string[] = [""]) => {
      this.#series.set(name, {
        type: "counter",
        help,
        ...(label ? { label } : {}),
        values: new Map(values.map((value) => [value, 0])),
      });
    };
    const histogram = (name: string, help: string, bounds: readonly number[]) => {
      const values = new Map(ENDPOINTS.map((endpoint) => {
        return [endpoint, { counts: bounds.map(() => 0), sum: 0, count: 0 }] as const;
      }));
      this.#histograms.set(name, { help, bounds, values });
    };
    counter("microgpt_requests_total", "Requests that were accepted.", "endpoint", ENDPOINTS);
    counter("microgpt_tokens_generated_total", "Tokens that were drawn.", "endpoint", ENDPOINTS);
    counter("microgpt_conversations_total", "Conversations that began.");
    counter("microgpt_request_errors_total", "Requests that were refused or failed.", "status", STATUSES);
    counter("microgpt_cancelled_total", "Requests whose client left.");
    histogram("microgpt_request_duration_ms", "Milliseconds from request to end of answer.", DURATION_MS);
    histogram("microgpt_tokens_per_second", "Tokens a second of an answer.", SPEED);
  }

  /** A number that is looked up when it is asked for. */
  watch(name: string, type: "counter" | "gauge", help: string, read: () => number): void {
    this.#series.set(name, { type, help, values: new Map(), read });
  }

  /** Adds to a counter. */
  add(name: string, by = 1, label = ""): void {
    const { values } = this.#series.get(name)!;
    values.set(label, (values.get(label) ?? 0) + by);
  }

  /** Adds a value to a histogram. */
  observe(name: string, endpoint: Endpoint, value: number): void {
    const { bounds, values } = this.#histograms.get(name)!;
    const of = values.get(endpoint)!;
    bounds.forEach((bound, i) => of.counts[i]! += Number(value <= bound));
    of.sum += value;
    of.count++;
  }

  /** The page. */
  text(): string {
    const lines: string[] = [];
    for (const [name, { type, help, label, values, read }] of this.#series) {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
      if (read) lines.push(`${name} ${read()}`);
      for (const [value, count] of values) {
        lines.push(`${name}${label ? `{${label}="${value}"}` : ""} ${count}`);
      }
    }
    for (const [name, { help, bounds, values }] of this.#histograms) {
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} histogram`);
      for (const [endpoint, { counts, sum, count }] of values) {
        const bucket = (bound: string, n: number) =>
          `${name}_bucket{endpoint="${endpoint}",le="${bound}"} ${n}`;
        bounds.forEach((bound, i) => lines.push(bucket(String(bound), counts[i]!)));
        lines.push(bucket("+Inf", count));
        lines.push(
          `${name}_sum{endpoint="${endpoint}"} ${sum}`,
          `${name}_count{endpoint="${endpoint}"} ${count}`,
        );
      }
    }
    return lines.join("\n") + "\n";
  }
}

const STATUSES = ["400", "401", "403", "404", "405", "408", "413", "415", "429", "500", "503", "504"];
