#include "plan/orders.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace lace::plan {
namespace {

constexpr double kPairsPerOther = 24;     // read a key and a value
constexpr double kPairsPerRow = 64;       // read a query, join and write a result
constexpr double kPairsPerLattice = 512;  // start a run
constexpr int64_t kSampledTiles = 256;
constexpr size_t kMaxSearchedTerms = 16;

// The passes of a given choice, and what it costs.
class Chooser {
 public:
  Chooser(const std::vector<Term>& terms, const Domain& domain, TileShape tile)
      : terms_(terms), domain_(domain), tile_(tile) {
    for (const Term& term : terms) candidates_.push_back(candidates(term));
  }

  std::vector<PassSpec> choose() {
    const Choice natural(terms_.size(), 0);
    Choice best = natural;
    double best_cost = cost(natural);
    const auto consider = [&](const Choice& choice) {
      const double new_cost = cost(choice);
      if (new_cost > best_cost) return false;
      const bool better = new_cost < best_cost;
      best = choice;
      best_cost = new_cost;
      return better;
    };
    Choice each = natural;  // the best order for each term alone
    for (size_t t = 0; t < terms_.size(); ++t) each[t] = best_alone(t);
    if (each != natural) consider(each);
    bool better = terms_.size() > 1 && terms_.size() <= kMaxSearchedTerms;
    while (better) {
      better = false;
      for (size_t t = 0; t < terms_.size(); ++t) {
        for (size_t c = 0; c < candidates_[t].size(); ++c) {
          if (c == best[t]) continue;
          Choice choice = best;
          choice[t] = c;
          better |= consider(choice);
        }
      }
    }
    return passes(best);
  }

 private:
  using Choice = std::vector<size_t>;  // for each term an index into its candidates

  // Natural first.
  std::vector<Order> candidates(const Term& term) const {
    std::vector<Order> orders{Order{}};
    if (term.owner_ranges) {
      int64_t rows = 0;
      for (const auto& [begin, end] : *term.owner_ranges) rows += end - begin;
      if (4 * rows <= domain_.end - domain_.owner_begin) {
        orders.push_back({RowOrder::kGlobalRows, 0, 0, 0, 0, *term.owner_ranges});
      }
    }
    if (!term.lists.empty() || term.general) return orders;
    for (const auto& [period, begin, end] : term.owner_columns) {
      orders.push_back({RowOrder::kColumns, period, begin, end - begin, 0, {}});
    }
    for (const Term& other : terms_) {
      if (other.modulus == 1 || term.modulus % other.modulus != 0) continue;
      const Order order{RowOrder::kResidue, other.modulus, 0, 0, 0, {}};
      if (std::find(orders.begin(), orders.end(), order) == orders.end()) orders.push_back(order);
    }
    return orders;
  }

  size_t best_alone(size_t t) const {
    size_t best = 0;
    double best_cost = 0;
    for (size_t c = 0; c < candidates_[t].size(); ++c) {
      PassSpec pass{candidates_[t][c], {{terms_[t]}, {}, {{}}}};
      const double new_cost = settle(pass);
      if (c == 0 || new_cost <= best_cost) {
        best = c;
        best_cost = new_cost;
      }
    }
    return best;
  }

  double cost(const Choice& choice) const {
    double sum = 0;
    for (PassSpec& pass : unsettled(choice)) sum += settle(pass);
    return sum;
  }

  std::vector<PassSpec> passes(const Choice& choice) const {
    std::vector<PassSpec> all = unsettled(choice);
    for (PassSpec& pass : all) settle(pass);
    return all;
  }

  // The passes, natural ones without an alignment yet.
  std::vector<PassSpec> unsettled(const Choice& choice) const {
    std::vector<size_t> by_order(terms_.size());
    for (size_t t = 0; t < terms_.size(); ++t) by_order[t] = t;
    const auto order_of = [&](size_t t) -> const Order& { return candidates_[t][choice[t]]; };
    const auto key = [&](size_t t) {
      const Order& order = order_of(t);
      const int64_t rows = order.ranges.empty() ? 0 : order.ranges.front().begin;
      return std::tuple(order.kind, order.period, order.begin, order.width, rows);
    };
    std::stable_sort(by_order.begin(), by_order.end(),
                     [&](size_t x, size_t y) { return key(x) < key(y); });
    std::vector<PassSpec> all;
    std::vector<Term> done, current;
    for (const size_t t : by_order) {
      if (all.empty() || !(all.back().order == order_of(t))) {
        done.insert(done.end(), current.begin(), current.end());
        current.clear();
        all.push_back({order_of(t), {{}, done, {}}});
      }
      current.push_back(terms_[t]);
      add_rest(terms_[t], all.back().terms);
    }
    std::erase_if(all, [](const PassSpec& pass) { return pass.terms.own.empty(); });
    return all;
  }

  // Adds what earlier passes leave of a term.
  void add_rest(Term term, PassTerms& pass) const {
    std::vector<int32_t> minus(pass.taken.size());
    for (size_t e = 0; e < minus.size(); ++e) minus[e] = static_cast<int32_t>(e);
    // A narrowed term may let another one be taken out exactly: try until nothing changes.
    for (bool changed = true; changed;) {
      changed = false;
      std::vector<int32_t> left;
      for (const int32_t e : minus) {
        switch (take_away(term, pass.taken[static_cast<size_t>(e)], domain_)) {
          case Remainder::kAll:
            break;
          case Remainder::kNone:
            return;
          case Remainder::kNarrowed:
            changed = true;
            break;
          case Remainder::kNotATerm:
            left.push_back(e);
        }
      }
      minus = std::move(left);
    }
    pass.own.push_back(std::move(term));
    pass.minus.push_back(std::move(minus));
  }

  // Chooses the alignment of a natural pass; the cost.
  double settle(PassSpec& pass) const {
    if (pass.order.kind != RowOrder::kNatural) return sampled_cost(pass);
    std::vector<int64_t> aligns{0};
    for (const Term& term : pass.terms.own) {
      for (const BlockBand& band : term.block_bands) aligns.push_back(band.block);
      for (const auto& list : term.lists) aligns.push_back(list->block());
    }
    std::sort(aligns.begin(), aligns.end());
    aligns.erase(std::unique(aligns.begin(), aligns.end()), aligns.end());
    constexpr size_t kMaxAligns = 8;
    if (aligns.size() > kMaxAligns) aligns.resize(kMaxAligns);
    int64_t best = 0;
    double best_cost = 0;
    for (const int64_t align : aligns) {
      pass.order.align = align;
      const double new_cost = sampled_cost(pass);
      if (align == 0 || new_cost <= best_cost) {
        best = align;
        best_cost = new_cost;
      }
    }
    pass.order.align = best;
    return best_cost;
  }

  double sampled_cost(const PassSpec& pass) const {
    std::vector<int64_t> offsets;
    const auto tiles = owner_tiles(pass.order, domain_, tile_.owners, offsets);
    const int64_t count = static_cast<int64_t>(tiles.size());
    const int64_t samples = std::min(count, kSampledTiles);
    double sum = 0;
    std::vector<Lattice> lattices;
    Listings listings(offsets);
    for (int64_t s = 0; s < samples; ++s) {
      // One tile of each stratum, at a place that no period of the pattern hides from.
      constexpr double kGoldenRatio = 0.6180339887498949;
      const double golden = kGoldenRatio * static_cast<double>(s);
      const double place =
          static_cast<double>(s) + (count > samples ? golden - std::floor(golden) : 0);
      const int64_t t =
          static_cast<int64_t>(place * static_cast<double>(count) / static_cast<double>(samples));
      const OwnerSet& owners = tiles[static_cast<size_t>(std::min(t, count - 1))];
      lattices.clear();
      listings.set_owners(owners.set, domain_.end);
      for (const Term& term : pass.terms.own) {
        add_support(term, pass.order, owners, domain_, offsets, listings, lattices);
      }
      if (lattices.empty()) continue;
      merge_lattices(lattices, pass.order.kind == RowOrder::kResidue, tile_.others, domain_);
      const double rows =
          static_cast<double>((count_before(owners.set, domain_.end, offsets) + 15) / 16 * 16);
      double others = 0;
      for (const Lattice& lattice : lattices) {
        const int64_t past_end = std::max<int64_t>(0, lattice.end() - domain_.end);
        others += static_cast<double>(std::max<int64_t>(16, lattice.size() - past_end));
      }
      sum += rows * (others + kPairsPerRow) + kPairsPerOther * others +
             kPairsPerLattice * static_cast<double>(lattices.size());
    }
    return samples > 0 ? sum * static_cast<double>(count) / static_cast<double>(samples) : 0;
  }

  const std::vector<Term>& terms_;
  Domain domain_;
  TileShape tile_;
  std::vector<std::vector<Order>> candidates_;
};

}  // namespace

std::vector<PassSpec> choose_passes(const std::vector<Term>& terms, const Domain& domain,
                                    TileShape tile) {
  return Chooser(terms, domain, tile).choose();
}

}  // namespace lace::plan
