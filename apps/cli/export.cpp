// lace export, lace import: a run's weights to and from a safetensors file of other programs.

#include <iostream>
#include <memory>
#include <optional>

#include "lace/weights.h"

#include "arguments.h"
#include "commands.h"
#include "load_checked.h"

namespace lace::cli {

namespace {

struct Options {
  std::string run, file, checkpoint, dtype, recipe;
  std::vector<std::string> overrides;
};

void export_run(const Options& options) {
  const LoadedRun run = load_checked(options.run, options.checkpoint, at::kCPU);
  std::optional<Precision> dtype;
  if (!options.dtype.empty()) dtype = parse_precision(options.dtype);
  export_weights(run, options.file, dtype);
  std::cerr << "wrote " << run.model->parameters().size() << " tensors of checkpoint "
            << run.checkpoint << ", step " << run.step << ", to " << path_text(options.file)
            << "\n";
}

void import_run(const Options& options) {
  import_weights(options.file, options.run,
                 options.recipe.empty() ? std::nullopt : std::optional(options.recipe),
                 options.overrides);
  std::cerr << "run folder: " << path_text(options.run) << "\n";
}

void add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("export", "Writes a run's weights for other programs (safetensors)");
  command->add_option("run", options->run, "The run's folder")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingDirectory);
  command->add_option("file", options->file, "The file, written anew")
      ->required()
      ->transform(path());
  add_checkpoint(*command, options->checkpoint);
  command->add_option("--dtype", options->dtype, "fp32, bf16, fp16 or fp64; default: as stored")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16", "fp64"}));
  command->footer(examples({"lace export runs/demo demo.safetensors",
                            "lace export runs/demo demo.safetensors --checkpoint last --dtype bf16",
                            "pip install safetensors && python3 -c 'import safetensors.torch as s; "
                            "print(s.load_file(\"demo.safetensors\").keys())'"}));
  command->callback([options] { export_run(*options); });
}

void add_import(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("import", "Makes a run of weights in a safetensors file");
  command->add_option("file", options->file, "The file: each parameter by its name (lace model)")
      ->required()
      ->transform(path())
      ->check(CLI::ExistingFile);
  command->add_option("run", options->run, "The run's folder, which must hold no run")
      ->required()
      ->transform(path());
  command->add_option("--recipe", options->recipe, "The model's recipe; default: the file's own")
      ->transform(path())
      ->check(CLI::ExistingFile);
  add_set(*command, options->overrides);
  command->footer(
      examples({"lace import demo.safetensors runs/copy", "lace sample runs/copy --length 400",
                "lace import demo.safetensors runs/tuned --set data.paths=mine.txt",
                "lace train runs/tuned/recipe.toml --run runs/tuned --resume"}));
  command->callback([options] { import_run(*options); });
}

const Command kExport(Order::kExport, add_export);
const Command kImport(Order::kImport, add_import);

}  // namespace

}  // namespace lace::cli
