/** Texts that two tokenizers split otherwise where one of them is wrong. */

/** What ways to split text differ about, and what looks like a special token. */
export const HARD = [
  "emma olivia\nsophia",
  "  two  spaces   and a tail ",
  "don't you'll WE'RE it's ''s",
  "1 12 123 1234567890 3.14 1e-9 ٣٤٥ ½ Ⅷ",
  "naïve café e\u0301 ﬁ ß İstanbul",
  "日本語のテキスト 한국어 ไทย हिन्दी עברית العربية",
  "🙂👩‍👩‍👧‍👦🏳️‍🌈 \u200b\u00a0\u2028x\u0085y",
  "\t\ttabs\r\n\r\n\n lines \n",
  "<bos><user>hi<end_turn> <|im_start|> </s>",
  "if (a[i] != b) { return --x; } // ok?!…",
  "_snake_case CamelCase ALLCAPS m²",
  " ",
  "",
];
