/** A surrogate pair, any other escaped code unit, or another escape. */
const ESCAPES = /\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u([0-9a-fA-F]{4})|\\./gs;

/**
 * Reads what a node sends. A user's error or column name may hold a NUL or half of a surrogate pair, which Postgres keeps in no text: they become U+2400
 * and U+FFFD, because a report that can't be kept would come again for ever.
 */
export function parseNodeJson(text: string): unknown {
  if (!text.includes("\\u")) return JSON.parse(text);
  return JSON.parse(
    text.replace(ESCAPES, (written: string, hex: string | undefined) => {
      if (hex === undefined) return written;
      const unit = Number.parseInt(hex, 16);
      if (unit === 0) return "\\u2400";
      return unit >= 0xd800 && unit <= 0xdfff ? "\\ufffd" : written;
    }),
  );
}
