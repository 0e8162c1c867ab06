#include "bench_step_cases.h"

namespace lace::cli {

namespace {

struct Variant {
  const char* name;
  const char* patterns;  // "": the recipe's
};

struct Model {
  const char* name;
  int batch;
  std::vector<Variant> variants;
};

}  // namespace

std::vector<StepCase> step_table() {
  const std::vector<Model> models = {
      {"enwik8", 4, {{"dense", "dense"}, {"fixed", ""}, {"merged", "local(128) | strided(128)"}}},
      {"cifar10", 16, {{"dense", "dense"}, {"strided", ""}, {"merged", "local(96) | strided(96)"}}},
      {"imagenet64",
       4,
       {{"dense", "dense"}, {"strided", ""}, {"merged", "local(128) | strided(128)"}}},
  };
  std::vector<StepCase> cases;
  for (const Model& model : models) {
    for (const Variant& variant : model.variants) {
      for (const bool dropout : {false, true}) {
        for (const bool recompute : {false, true}) {
          StepCase c;
          c.name = std::string(model.name) + "-" + variant.name +
                   (dropout ? "-dropout" : "-dropout0") + (recompute ? "-recompute" : "-keep");
          c.recipe = std::string(model.name) + ".toml";
          c.overrides = {"train.batch=" + std::to_string(model.batch), "train.accumulate=1",
                         std::string("model.recompute=") + (recompute ? "true" : "false")};
          if (*variant.patterns != '\0') {
            c.overrides.push_back(std::string("model.patterns=\"") + variant.patterns + "\"");
          }
          if (!dropout) c.overrides.push_back("model.dropout=0");
          cases.push_back(c);
        }
      }
    }
  }
  return cases;
}

}  // namespace lace::cli
