import { usageError } from "./cli-error.ts";

/** Records of CSV text as RFC 4180 has it: quotes, doubled quotes, newlines inside quotes. Empty lines are left out. */
export function parseCsv(text: string, where: string): string[][] {
  const records: string[][] = [];
  let record: string[] = [];
  const field = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/y;
  while (field.lastIndex < text.length) {
    const found = field.exec(text);
    if (found === null) throw usageError(`${where}: row ${records.length + 1} has a quote that is out of place`);
    record.push(found[1] === undefined ? (found[2] ?? "") : found[1].replaceAll('""', '"'));
    if (found[3] === ",") {
      if (field.lastIndex === text.length) record.push("");
      else continue;
    }
    if (record.length > 1 || record[0] !== "") records.push(record);
    record = [];
  }
  return records;
}
