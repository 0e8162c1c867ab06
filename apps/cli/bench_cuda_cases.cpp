#include "bench_cuda_cases.h"

namespace lace::cli {

std::vector<CudaCase> cuda_cases() {
  std::vector<CudaCase> cases;
  CudaCase layer;
  const auto add = [&](const std::string& name, const std::string& pattern,
                       DenseView view = DenseView::kNone, int64_t period = 0) {
    CudaCase c = layer;
    c.name = name;
    c.pattern = pattern;
    c.view = view;
    c.period = period;
    cases.push_back(c);
  };
  layer.batch = 8, layer.seq_len = 12288, layer.heads = layer.kv_heads = 8;
  add("A-dense", "dense", DenseView::kWhole);
  add("A-fixed", "block(128) | summary(128, 32)");
  add("A-fixed-stripes", "fixed(128, 32, 4)");
  add("A-strided-merged", "local(128) | strided(128)");
  add("A-strided", "strided(128)", DenseView::kResidues, 128);
  add("A-block", "block(128)", DenseView::kBlocks, 128);
  add("A-local", "local(128)", DenseView::kWindow, 128);
  layer.batch = 1, layer.seq_len = 65536;
  add("B-dense", "dense", DenseView::kWhole);
  add("B-fixed", "block(256) | summary(256, 32)");
  add("B-strided-merged", "local(256) | strided(256)");
  layer.seq_len = 32768, layer.heads = 32, layer.kv_heads = 8, layer.head_dim = 128;
  add("C-window", "local(4096)", DenseView::kWindow, 4096);
  add("C-window-sinks", "local(4096) | sinks(4)");
  add("C-dense", "dense", DenseView::kWhole);
  layer.batch = 2, layer.seq_len = 16384, layer.heads = layer.kv_heads = 12, layer.head_dim = 64;
  add("D-longformer", "bidirectional(local(512) | global(64))");
  add("D-bigbird", "bidirectional(local(3, 64) | random(3, 64, 0) | global{0..63, -64..-1})");
  add("D-dense", "bidirectional(dense)", DenseView::kWhole);
  layer.batch = 1, layer.seq_len = 1 << 20, layer.heads = layer.kv_heads = 1;
  layer.memory_row = true;
  add("million-fixed", "block(1024) | summary(1024, 32)");
  add("million-strided-merged", "local(1024) | strided(1024)");
  return cases;
}

}  // namespace lace::cli
