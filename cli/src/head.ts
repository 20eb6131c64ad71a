import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import type { TaskResult } from "@frazil/contracts";
import { CompressionType, setCompressionCodec, tableFromIPC } from "@uwdata/flechette";
import { formatCell } from "./arrow-cell.ts";

setCompressionCodec(CompressionType.ZSTD, { encode: zstdCompressSync, decode: zstdDecompressSync });

/** Decodes a result's first rows to text. Undefined when there are none, or when they hold a type that the reader does not know (such as Int128). */
export function readHead(
  { head, schema }: Pick<TaskResult, "head" | "schema">,
  rowsMax: number,
): string[][] | undefined {
  if (head === null || schema.length === 0) return undefined;
  try {
    const table = tableFromIPC(Buffer.from(head, "base64"), { useBigInt: true, useDecimalInt: true });
    const columns = schema.map((_, index) => table.getChildAt(index));
    const count = Math.min(table.numRows, rowsMax);
    return Array.from({ length: count }, (_, row) => columns.map((column) => formatCell(column.at(row), column.type)));
  } catch {
    // The head is an extra: schema, rows and locations are shown without it.
    return undefined;
  }
}
