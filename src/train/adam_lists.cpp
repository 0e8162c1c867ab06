#include "train/adam_lists.h"

#include <ATen/ATen.h>

namespace lace::train {

void update_lists(const AdamLists& lists, const OptimizerConfig& config, double rate,
                  double factor) {
  const at::NoGradGuard no_grad;
  const auto& [p, g, m, v, ema] = lists;
  at::_foreach_mul_(g, factor);
  at::_foreach_mul_(m, config.beta1);
  at::_foreach_add_(m, g, 1 - config.beta1);
  at::_foreach_mul_(v, config.beta2);
  at::_foreach_addcmul_(v, g, g, 1 - config.beta2);
  std::vector<at::Tensor> update = at::_foreach_sqrt(v);
  at::_foreach_add_(update, config.epsilon);
  update = at::_foreach_div(m, update);
  if (config.weight_decay != 0) {
    std::vector<at::Tensor> decayed, their_update;
    for (size_t i = 0; i < p.size(); ++i) {
      if (p[i].dim() < 2) continue;
      decayed.push_back(p[i]);
      their_update.push_back(update[i]);
    }
    if (!decayed.empty()) at::_foreach_add_(their_update, decayed, config.weight_decay);
  }
  at::_foreach_add_(p, update, -rate);
  if (ema.empty()) return;
  at::_foreach_mul_(ema, config.ema);
  at::_foreach_add_(ema, p, 1 - config.ema);
}

}  // namespace lace::train
