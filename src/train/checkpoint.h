#pragma once

#include <map>
#include <string>
#include <vector>

#include "lace/model.h"

namespace lace::train {

// Writes `text` so that `path` holds either its old content or all of the new: to a temporary name,
// synced, renamed, the folder synced.
void write_file_atomically(const std::string& path, const std::string& text);

// Writes float32, float64 and bfloat16 tensors as a safetensors file, atomically likewise.
void write_safetensors(const std::string& path, const std::vector<NamedParameter>& tensors,
                       const std::map<std::string, std::string>& metadata);

// Copies the tensors of a safetensors file into `tensors`, in place, and returns its metadata.
// Throws lace::Error naming the tensor that the file lacks or holds in another dtype or shape;
// tensors of the file that are not asked for are left alone.
std::map<std::string, std::string> read_safetensors(const std::string& path,
                                                    const std::vector<NamedParameter>& tensors);

}  // namespace lace::train
