#include "plan/explain_json.h"

#include <nlohmann/json.hpp>

namespace lace {
namespace {

using Json = nlohmann::ordered_json;

Json passes_json(const Explanation& all, bool transposed) {
  Json list = Json::array();
  for (size_t layer = 0; layer < all.layers.size(); ++layer) {
    const LayerFigures& figures = all.layers[layer];
    for (const PassFigures& pass : (transposed ? figures.transposed : figures.forward).passes) {
      list.push_back({{"layer", layer},
                      {"group", pass.group},
                      {"heads", pass.heads},
                      {"order", name(pass.order)},
                      {"period", pass.period},
                      {"live_pairs", pass.live_pairs},
                      {"computed_pairs", pass.computed_pairs},
                      {"waste", waste(pass.computed_pairs, pass.live_pairs)},
                      {"owner_tiles", pass.owner_tiles},
                      {"key_tiles", pass.key_tiles}});
    }
  }
  return list;
}

void add_plan_json(const Explanation& all, bool transposed, Json& json) {
  const PlanFigures& plan = transposed ? all.transposed : all.forward;
  json["live_pairs"] = plan.live_pairs;
  json["computed_pairs"] = plan.computed_pairs;
  json["waste"] = waste(plan.computed_pairs, plan.live_pairs);
  json["passes"] = passes_json(all, transposed);
  json["owner_tiles"] = plan.owner_tiles;
  json["key_tiles"] = plan.key_tiles;
  const auto unless_one_draw = [&all](auto figure) { return all.one_draw ? Json() : Json(figure); };
  json["runs"] = unless_one_draw(plan.runs);
  json["masks"] = unless_one_draw(plan.masks);
  json["plan_bytes"] = unless_one_draw(plan.plan_bytes);
  json["compile_ms"] = unless_one_draw(plan.compile_ms);
}

}  // namespace

Json explain_json(const Explanation& all, int64_t layers) {
  Json json;
  for (const LayerFigures& layer : all.layers) {
    json["patterns"].push_back(layer.pattern.to_string());
  }
  json["seq_len"] = all.seq_len;
  json["heads"] = all.heads;
  json["tile"] = {all.tile.owners, all.tile.others};
  add_plan_json(all, false, json);
  json["mean_keys"] = all.mean_keys;
  json["max_keys"] = all.max_keys;
  json["dense_pairs"] = all.dense_pairs;
  json["saved"] = saved(all, all.forward.live_pairs);
  json["saved_computed"] = saved(all, all.forward.computed_pairs);
  const int64_t reach = all.reach.layers;
  json["layers_to_full_reach"] = reach < 0 ? Json() : Json(reach);
  if (layers > 0) {
    json["layers"] = layers;
    const bool enough = 0 <= reach && reach <= layers;
    json["full_reach"] = enough && all.reach.at_least ? Json() : Json(enough);
  }
  json["exact"] = all.reach.exact;
  json["at_least"] = all.reach.at_least;
  json["one_draw"] = all.one_draw;
  add_plan_json(all, true, json["transposed"]);
  return json;
}

}  // namespace lace
