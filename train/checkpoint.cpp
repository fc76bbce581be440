// Checkpoints.
#include "train/checkpoint.h"

#include <algorithm>
#include <cmath>

#include "layers/state_dict.h"
#include "train/watch.h"

namespace dattn {

namespace {

constexpr const char* kFormat = "dattn checkpoint 1";

nlohmann::json to_json(const ModelOptions& m) {
  return {{"name", m.name},
          {"attention", m.attention},
          {"classes", m.classes},
          {"attention_maps", m.attention_maps},
          {"attention_stride", m.attention_stride}};
}

// Error where what a checkpoint says of itself cannot be.
void check_info(const CheckpointInfo& info, const nlohmann::json& model) {
  const auto known = [](const auto& names, const auto& name) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  for (const char* number : {"classes", "attention_stride"}) {
    const auto found = model.find(number);
    check(found == model.end() || found->is_number_integer(), "expected a whole number of {}, found {}", number,
          found == model.end() ? "none" : found->dump());
  }
  const auto expect = [&](const char* what, const auto& names, const auto& name) {
    check(known(names, name), "expected {} of {}, found {}", what, fmt::join(names, ", "), name);
  };
  expect("a model", kModels, info.model.name);
  expect("an attention", kAttentions, info.model.attention);
  for (const std::int64_t side : info.model.attention_maps) expect("a map's side", kAttentionMaps, side);
  check(static_cast<std::int64_t>(info.class_names.size()) == info.model.classes,
        "the model has {} classes, of which {} have a name", info.model.classes, info.class_names.size());
  for (std::size_t c = 0; c < 3; ++c) {
    const float mean = info.normalisation.mean[c], deviation = info.normalisation.std[c];
    check(std::isfinite(mean) && std::isfinite(deviation) && deviation > 0,
          "images cannot be normalised by a mean of {} and a deviation of {}", mean, deviation);
  }
  check(info.options.is_object() && info.state.is_object(), "options and state are no JSON objects");
  const auto precision = info.options.find("precision");
  if (precision != info.options.end() && !known(kPrecisions, *precision))
    fail("expected a precision of {}, found {}", fmt::join(kPrecisions, ", "), precision->dump());
}

// JSON of the metadata. Error where it is missing or nested deeper than a checkpoint's ever is.
nlohmann::json parse_metadata(const Metadata& metadata, const char* key) {
  constexpr int kDeepest = 8;
  const auto found = metadata.find(key);
  check(found != metadata.end(), "`{}` is missing", key);
  return nlohmann::json::parse(found->second, [key](int depth, nlohmann::json::parse_event_t, const nlohmann::json&) {
    check(depth <= kDeepest, "`{}` is nested too deep", key);
    return true;
  });
}

CheckpointInfo parse_info(const std::string& path, const Metadata& metadata, bool has_ema) {
  const auto format = metadata.find("format");
  check(format != metadata.end() && format->second == kFormat,
        "checkpoint {}: no checkpoint of dattn (metadata `format` should be `{}`, found {})", path, kFormat,
        format == metadata.end() ? "none" : shown(format->second));
  try {
    CheckpointInfo info;
    const auto model = parse_metadata(metadata, "model"), data = parse_metadata(metadata, "data");
    const ModelOptions usual;  // in checkpoints before there was a choice
    info.model = {model.at("name"), model.at("attention"), model.at("classes"),
                  model.value("attention_maps", usual.attention_maps),
                  model.value("attention_stride", usual.attention_stride)};
    data.at("classes").get_to(info.class_names);
    data.at("mean").get_to(info.normalisation.mean);
    data.at("std").get_to(info.normalisation.std);
    info.fingerprint = data.value("fingerprint", "");
    info.options = parse_metadata(metadata, "options");
    info.state = parse_metadata(metadata, "state");
    info.has_ema = has_ema;
    check_info(info, model);
    return info;
  } catch (const std::exception& e) {
    fail("checkpoint {}: its metadata cannot be read ({})", path, e.what());
  }
}

}  // namespace

void write_checkpoint(const std::string& path, const CheckpointInfo& info, const std::vector<NamedTensor>& model,
                      const std::vector<NamedTensor>& ema, const std::vector<NamedTensor>& optimizer) {
  TensorMap all;
  put_state(model, "model.", all);
  put_state(ema, "ema.", all);
  put_state(optimizer, "optimizer.", all);
  const nlohmann::json data = {{"classes", info.class_names},
                               {"mean", info.normalisation.mean},
                               {"std", info.normalisation.std},
                               {"fingerprint", info.fingerprint}};
  write_state_file(path, all,
                   {{"format", kFormat},
                    {"model", to_json(info.model).dump()},
                    {"data", data.dump()},
                    {"options", info.options.dump()},
                    {"state", info.state.dump()}});
}

Checkpoint::Checkpoint(const std::string& path) : path_(path) {
  StateFile file = read_state_file(path);
  tensors_ = std::move(file.tensors);
  const auto ema = tensors_.lower_bound("ema.");
  info_ = parse_info(path, file.metadata, ema != tensors_.end() && ema->first.starts_with("ema."));
}

void Checkpoint::load(const std::string& prefix, const std::vector<NamedTensor>& targets) const {
  take_state(tensors_, prefix, targets, "checkpoint " + path_);
}

std::unique_ptr<Classifier> load_model(const Checkpoint& checkpoint) {
  Random random(0, Purpose::init);
  auto model = make_model(checkpoint.info().model, random);
  checkpoint.load("model.", state_dict(*model));
  if (checkpoint.info().has_ema) checkpoint.load("ema.", state_dict(*model));
  const std::string lost = first_not_finite(state_dict(*model));
  check(lost.empty(), "checkpoint {}: {} holds numbers that are not finite", checkpoint.path(), lost);
  return model;
}

}  // namespace dattn
