import type { Command, Option } from "commander";

/** What a shell can complete at one place of the tree of commands. */
export interface CommandWords {
  /** `pc clusters start` is ["clusters", "start"]. */
  readonly path: readonly string[];
  readonly commands: readonly { readonly name: string; readonly about: string }[];
  readonly options: readonly OptionWords[];
  /** Values of the first argument, where these are a few words. */
  readonly choices: readonly string[];
}
interface OptionWords {
  readonly names: readonly string[];
  readonly about: string;
  readonly takesValue: boolean;
  readonly choices: readonly string[];
}

/** The words of a command and of all below it. */
export function readWords(command: Command, path: readonly string[] = []): CommandWords[] {
  const here: CommandWords = {
    path,
    commands: command.commands.map((each) => ({
      name: each.name(),
      about: firstSentence(each.summary() || each.description()),
    })),
    options: [...command.options.map(describeOption), HELP],
    choices: command.registeredArguments[0]?.argChoices ?? [],
  };
  return [here, ...command.commands.flatMap((each) => readWords(each, [...path, each.name()]))];
}

const HELP: OptionWords = { names: ["-h", "--help"], about: "show help", takesValue: false, choices: [] };

function describeOption(option: Option): OptionWords {
  const names = [option.short, option.long].filter((name) => name !== undefined && name !== null);
  return {
    names,
    about: firstSentence(option.description),
    takesValue: option.required || option.optional,
    choices: option.argChoices ?? [],
  };
}

function firstSentence(text: string): string {
  return (text.split(/[.;(]/)[0] ?? "").trim();
}

export function makeScript(shell: "bash" | "zsh" | "fish", words: readonly CommandWords[]): string {
  if (shell === "fish") return makeFish(words);
  return shell === "bash" ? makeBash(words) : makeZsh(words);
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The shell's own functions find the path of commands among the words typed so far; the rest are case tables. */
function makeBash(words: readonly CommandWords[]): string {
  const paths = words.map(({ path }) => path.join(" ")).filter((path) => path !== "");
  const tables = words.map((here) => `    ${quoted(here.path.join(" "))}) words=${quoted(wordsOf(here).join(" "))} ;;`);
  const values = optionValues(words).map(
    ({ pattern, choices }) =>
      `    ${pattern}) COMPREPLY=($(compgen -W ${quoted(choices.join(" "))} -- "$cur")); return ;;`,
  );
  const files = valueOptions(words).map((name) => `    *' ${name}') COMPREPLY=($(compgen -f -- "$cur")); return ;;`);
  return `# bash completion for pc and frazil
_frazil_pc() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" path="" word words
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "\${path:+$path }$word" in
    ${paths.map(quoted).join("|")}) path="\${path:+$path }$word" ;;
    esac
  done
  case "$path $prev" in
${[...values, ...files].join("\n")}
  esac
  case "$path" in
${tables.join("\n")}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [[ \${#COMPREPLY[@]} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$cur"))
}
complete -o filenames -F _frazil_pc pc frazil
`;
}

function wordsOf(here: CommandWords): string[] {
  return [...here.commands.map(({ name }) => name), ...here.choices, ...here.options.flatMap(({ names }) => names)];
}

/** Options whose values are a few words, as a pattern over the path of commands and the option. */
function optionValues(words: readonly CommandWords[]): { pattern: string; choices: readonly string[] }[] {
  return words.flatMap(({ path, options }) =>
    options.flatMap(({ names, choices }) =>
      choices.length === 0 ? [] : names.map((name) => ({ pattern: quoted(`${path.join(" ")} ${name}`), choices })),
    ),
  );
}

function valueOptions(words: readonly CommandWords[]): string[] {
  return [
    ...new Set(
      words.flatMap(({ options }) => options.filter(({ takesValue }) => takesValue).flatMap(({ names }) => names)),
    ),
  ];
}

function makeZsh(words: readonly CommandWords[]): string {
  const functions = words.map((here) => zshFunction(here));
  return `#compdef pc frazil
# zsh completion for pc and frazil
${functions.join("\n")}
if [[ "$funcstack[1]" = _pc ]]; then
  _frazil_pc "$@"
else
  compdef _frazil_pc pc frazil
fi
`;
}

function zshName(path: readonly string[]): string {
  return ["_frazil_pc", ...path].join("_").replaceAll("-", "_");
}

function zshFunction(here: CommandWords): string {
  const specs = here.options.map(zshOption);
  if (here.commands.length === 0) {
    const rest = here.choices.length > 0 ? `'1:value:(${here.choices.join(" ")})'` : "'*:file:_files'";
    return `${zshName(here.path)}() {\n  _arguments -s \\\n    ${[...specs, rest].join(" \\\n    ")}\n}`;
  }
  const commands = here.commands.map(({ name, about }) => `    ${quoted(`${name}:${about}`)}`);
  const cases = here.commands.map(({ name }) => `      ${name}) ${zshName([...here.path, name])} ;;`);
  return `${zshName(here.path)}() {
  local state line
  local -a commands=(
${commands.join("\n")}
  )
  _arguments -s -C \\
    ${[...specs, "'1:command:->command'", "'*::argument:->argument'"].join(" \\\n    ")}
  case "$state" in
    command) _describe command commands ;;
    argument)
      case "$line[1]" in
${cases.join("\n")}
      esac ;;
  esac
}`;
}

function zshOption({ names, about, takesValue, choices }: OptionWords): string {
  const text = about.replace(/[[\]:\\]/g, "");
  const value = !takesValue ? "" : choices.length > 0 ? `:value:(${choices.join(" ")})` : ":value:_files";
  const repeated = names.length > 1 ? `'(${names.join(" ")})'{${names.join(",")}}` : `'*'${names[0] ?? ""}`;
  return `${repeated}${quoted(`[${text}]${value}`)}`;
}

function makeFish(words: readonly CommandWords[]): string {
  const lines = words.flatMap((here) => fishLines(here, words));
  return `# fish completion for pc and frazil
function __frazil_pc_at
  set -l words (commandline -opc)
  set -l path
  for word in $words[2..]
    if contains -- (string join -- ' ' $path $word) ${words
      .filter(({ path }) => path.length > 0)
      .map(({ path }) => quoted(path.join(" ")))
      .join(" ")}
      set -a path $word
    end
  end
  test "$path" = "$argv"
end
for command in pc frazil
${lines.map((line) => `  complete -c $command ${line}`).join("\n")}
end
`;
}

function fishLines(here: CommandWords, words: readonly CommandWords[]): string[] {
  const at = `-n ${quoted(here.path.length === 0 ? "__frazil_pc_at" : `__frazil_pc_at ${here.path.join(" ")}`)}`;
  const hasFiles = here.commands.length === 0 && here.choices.length === 0 && words.length > 0;
  const commands = here.commands.map(({ name, about }) => `${at} -f -a ${name} -d ${quoted(about)}`);
  const choices = here.choices.length > 0 ? [`${at} -f -a ${quoted(here.choices.join(" "))}`] : [];
  const options = here.options.map((option) => `${at} ${fishOption(option)}`);
  return [...(hasFiles ? [] : [`${at} -f`]), ...commands, ...choices, ...options];
}

function fishOption({ names, about, takesValue, choices }: OptionWords): string {
  const flags = names.map((name) => (name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`)).join(" ");
  const value = !takesValue ? "" : choices.length > 0 ? ` -x -a ${quoted(choices.join(" "))}` : " -r";
  return `${flags}${value} -d ${quoted(about)}`;
}
