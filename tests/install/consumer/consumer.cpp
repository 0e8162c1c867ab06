// Another project's program: attention through the installed library, and its registered form.

#include <iostream>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randn.h>

#include "lace/attention.h"
#include "lace/model.h"
#include "lace/version.h"

int main() {
  const at::Tensor q = at::randn({1, 2, 64, 16});
  const at::Tensor out = lace::attention(q, q, q, lace::local(8) | lace::strided(8));
  const bool registered =
      c10::Dispatcher::singleton().findSchema({"lace::attention", ""}).has_value();
  lace::ModelConfig config;
  config.check();
  std::cout << "lace " << lace::version() << ": out " << out.sizes() << ", a model of "
            << lace::parameter_count(config) << " parameters\n";
  return registered && at::isfinite(out).all().item<bool>() ? 0 : 1;
}
