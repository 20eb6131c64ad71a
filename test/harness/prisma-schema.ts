export interface Column {
  readonly name: string;
  readonly type: string;
  readonly nullable: boolean;
  readonly default: string | null;
}
export interface Index {
  readonly columns: readonly string[];
  readonly unique: boolean;
  readonly primary: boolean;
  readonly method: string;
}
export interface ForeignKey {
  readonly columns: readonly string[];
  readonly references: string;
}
export interface Table {
  readonly name: string;
  readonly columns: readonly Column[];
  readonly indexes: readonly Index[];
  readonly foreignKeys: readonly ForeignKey[];
}

/** Prisma's scalar types, as Postgres' information schema calls what they stand for. */
const TYPES: Record<string, string> = {
  String: "text",
  Int: "integer",
  BigInt: "bigint",
  Float: "double precision",
  Boolean: "boolean",
  Json: "jsonb",
  Bytes: "bytea",
  "DateTime @db.Timestamptz(3)": "timestamp(3) with time zone",
};
const FIELD = /^(\w+)\s+(\w+)(\[\]|\?)?\s*(.*)$/;

interface Field {
  readonly name: string;
  readonly column: string;
  readonly type: string;
  readonly modifier: string;
  readonly attributes: string;
}

/** Reads the models of a schema.prisma, as far as this project's uses its language; anything else is an error. */
export function readPrismaSchema(text: string): Table[] {
  const blocks = [...text.matchAll(/^model (\w+) \{\n([\s\S]*?)^\}/gm)];
  const models = new Map(blocks.map(([, name = "", body = ""]) => [name, linesOf(body)]));
  const tableNames = new Map([...models].map(([model, lines]) => [model, mapOf(lines)]));
  return [...models.values()].map((lines) => readModel(lines, tableNames));
}

const linesOf = (body: string) =>
  body
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("//"));

function mapOf(lines: readonly string[]): string {
  const map = /^@@map\("(\w+)"\)$/.exec(lines.find((line) => line.startsWith("@@map(")) ?? "");
  if (map?.[1] === undefined) throw new Error("every model names its table with @@map");
  return map[1];
}

function readModel(lines: readonly string[], tableNames: ReadonlyMap<string, string>): Table {
  const fields = lines.filter((line) => !line.startsWith("@@")).map(readField);
  const scalars = fields.filter((field) => !tableNames.has(field.type));
  const columnOf = new Map(scalars.map((field) => [field.name, field.column]));
  const name = mapOf(lines);
  return {
    name,
    columns: scalars.map((field) => readColumn(field, name)),
    indexes: [...scalars.flatMap(fieldIndexes), ...lines.flatMap((line) => blockIndexes(line, columnOf))],
    foreignKeys: fields.flatMap((field) => readForeignKey(field, columnOf, tableNames)),
  };
}

function readField(line: string): Field {
  const match = FIELD.exec(line);
  if (match === null) throw new Error(`not a field: ${line}`);
  const [, name = "", type = "", modifier = "", attributes = ""] = match;
  return { name, type, modifier, attributes, column: /@map\("(\w+)"\)/.exec(attributes)?.[1] ?? name };
}

function readColumn({ column, type, modifier, attributes }: Field, table: string): Column {
  const native = /@db\.\S+/.exec(attributes)?.[0];
  const known = TYPES[native === undefined ? type : `${type} ${native}`];
  if (known === undefined) throw new Error(`a type that is not compared: ${type} ${native ?? ""}`);
  return {
    name: column,
    type: known,
    nullable: modifier === "?",
    default: readDefault(/@default\((.*?\)?)\)(\s|$)/.exec(attributes)?.[1], table, column),
  };
}

function readDefault(text: string | undefined, table: string, column: string): string | null {
  return text === "autoincrement()" ? `nextval('${table}_${column}_seq'::regclass)` : (text ?? null);
}

function fieldIndexes({ column, attributes }: Field): Index[] {
  const index = { columns: [column], unique: true, method: "btree" };
  if (/@id\b/.test(attributes)) return [{ ...index, primary: true }];
  return /@unique\b/.test(attributes) ? [{ ...index, primary: false }] : [];
}

function blockIndexes(line: string, columnOf: ReadonlyMap<string, string>): Index[] {
  const match = /^@@(id|unique|index)\(\[(.*?)\](?:, type: (\w+))?\)$/.exec(line);
  if (match === null) {
    if (!line.startsWith("@@") || line.startsWith("@@map(")) return [];
    throw new Error(`a block attribute that is not compared: ${line}`);
  }
  const [, kind, list = "", type = "btree"] = match;
  const columns = list.split(",").map((part) => {
    const [, name = "", operators] = /^\s*(\w+)(?:\(ops: (\w+)\))?\s*$/.exec(part) ?? [];
    const suffix = operators === "JsonbPathOps" ? " jsonb_path_ops" : "";
    return `${columnOf.get(name)}${suffix}`;
  });
  return [{ columns, unique: kind !== "index", primary: kind === "id", method: type.toLowerCase() }];
}

function readForeignKey(
  { type, attributes }: Field,
  columnOf: ReadonlyMap<string, string>,
  tableNames: ReadonlyMap<string, string>,
): ForeignKey[] {
  const match = /@relation\(fields: \[(\w+)\], references: \[(\w+)\], onDelete: Cascade, onUpdate: NoAction\)/.exec(
    attributes,
  );
  if (match === null) return [];
  const [, own = "", foreign] = match;
  return [{ columns: [columnOf.get(own) ?? own], references: `${tableNames.get(type)}(${foreign}) ON DELETE CASCADE` }];
}
