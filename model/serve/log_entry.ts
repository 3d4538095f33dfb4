/** The line about a request. */

/** What is known of a request when it is over. */
export interface LogEntry {
  /** when it came, ISO 8601 */
  time: string;
  /** "POST" */
  method: string;
  /** "/v1/completions" */
  path: string;
  /** HTTP's */
  status: number;
  /** milliseconds until it was over, its stream included */
  ms: number;
  /** tokens of its prompts */
  prompt_tokens?: number;
  /** so many of them were found in the cache */
  cached_tokens?: number;
  /** tokens that were drawn for it */
  completion_tokens?: number;
  /** "cancelled" when its client left */
  ending?: "done" | "cancelled" | "failed";
  /** what failed */
  error?: string;
}
