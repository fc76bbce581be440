// Basic operations: checks and nodes. Their loops are in ops_cpu.cpp, ops_matmul_cpu.cpp and ops_layout_cpu.cpp.
#include "core/ops.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/saved.h"

namespace dattn {

namespace {

void check_same(const char* operation, const Tensor& a, const Tensor& b) {
  check(a.shape() == b.shape() && a.dtype() == b.dtype(), "{}: expected two tensors of one shape and type ({}, {})",
        operation, describe("a", a), describe("b", b));
}

int check_dim(const char* operation, const Tensor& x, int dim) {
  check(dim >= -x.rank() && dim < x.rank(), "{}: there is no dimension {} ({})", operation, dim, describe("x", x));
  return dim < 0 ? dim + x.rank() : dim;
}

Trans other(Trans t) { return t == Trans::no ? Trans::yes : Trans::no; }

// The first element's place.
Shape origin(int rank) {
  constexpr std::array<std::int64_t, Shape::kMaxRank> kZeros{};
  return Shape(std::span(kZeros.data(), static_cast<std::size_t>(rank)));
}

}  // namespace

// --- add ---

namespace {
struct AddNode : Node {
  const char* name() const override { return "add"; }
  void backward(const Tensor& dy) override {
    give(0, dy);
    give(1, dy);
  }
};
}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  check_same("add", a, b);
  Tensor y = Tensor::like(a);
  add_forward(a, b, y);
  return record<AddNode>(std::move(y), {a, b}, {}, [](AddNode&) {});
}

// --- mul ---

namespace {
struct MulNode : Node {
  Tensor a, b;
  const char* name() const override { return "mul"; }
  void backward(const Tensor& dy) override {
    give_product(0, dy, b);
    give_product(1, dy, a);
  }
  void give_product(std::size_t i, const Tensor& dy, const Tensor& factor) {
    if (!needs(i)) return;
    Tensor dx = Tensor::like(dy);
    mul_forward(dy, factor, dx);
    give(i, std::move(dx));
  }
};
}  // namespace

Tensor mul(const Tensor& a, const Tensor& b) {
  check_same("mul", a, b);
  Tensor y = Tensor::like(a);
  mul_forward(a, b, y);
  return record<MulNode>(std::move(y), {a, b}, {}, [&](MulNode& node) {
    if (b.needs_grad()) node.a = a.detach();
    if (a.needs_grad()) node.b = b.detach();
  });
}

// --- scale ---

namespace {
struct ScaleNode : Node {
  double factor = 1;
  const char* name() const override { return "scale"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::like(dy);
    scale_forward(dy, factor, dx);
    give(0, std::move(dx));
  }
};
}  // namespace

Tensor scale(const Tensor& x, double factor) {
  Tensor y = Tensor::like(x);
  scale_forward(x, factor, y);
  return record<ScaleNode>(std::move(y), {x}, {}, [&](ScaleNode& node) { node.factor = factor; });
}

// --- cast ---

namespace {
struct CastNode : Node {
  Dtype before = Dtype::float32, after = Dtype::float32;
  Saved x;  // only where it is recomputed
  const char* name() const override { return "cast"; }
  void backward(const Tensor& dy) override { give(0, dy.to(before)); }
  int recompute_sweeps() const override { return x.recompute_sweeps() > 0 ? x.recompute_sweeps() + 1 : 0; }
  Tensor recompute() const override { return x.get().to(after); }
};
}  // namespace

Tensor cast(const Tensor& x, Dtype dtype) {
  const auto floating = [](Dtype t) { return t == Dtype::float32 || t == Dtype::float64 || t == Dtype::bfloat16; };
  check(floating(x.dtype()) && floating(dtype), "cast: expected floating types, got {} to {}", describe("x", x),
        name(dtype));
  if (x.dtype() == dtype) return x;
  return record<CastNode>(x.to(dtype), {x}, {}, [&](CastNode& node) {
    node.before = x.dtype(), node.after = dtype;
    if (const Saved saved(x); saved.recompute_sweeps() > 0) node.x = saved;
  });
}

// --- matmul ---

namespace {
struct MatmulNode : Node {
  Tensor a, b;
  Shape a_shape, b_shape;
  Trans ta = Trans::no, tb = Trans::no;
  const char* name() const override { return "matmul"; }
  void backward(const Tensor& dy) override {
    if (needs(0)) {  // op(da) = dy op(b)^T
      Tensor da = Tensor::empty(a_shape, dy.dtype(), dy.device());
      if (ta == Trans::no) {
        matmul_forward(dy, Trans::no, b, other(tb), da);
      } else {
        matmul_forward(b, tb, dy, Trans::yes, da);
      }
      give(0, std::move(da));
    }
    if (needs(1)) {  // op(db) = op(a)^T dy
      Tensor db = Tensor::empty(b_shape, dy.dtype(), dy.device());
      if (tb == Trans::no) {
        matmul_forward(a, other(ta), dy, Trans::no, db);
      } else {
        matmul_forward(dy, Trans::yes, a, ta, db);
      }
      give(1, std::move(db));
    }
  }
};
}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, Trans transpose_a, Trans transpose_b) {
  const int rank = a.rank();
  check(rank >= 2 && b.rank() == rank && a.dtype() == b.dtype() &&
            a.shape().leading(rank - 2) == b.shape().leading(rank - 2) &&
            std::equal(a.shape().begin(), a.shape().end() - 2, b.shape().begin()),
        "matmul: expected two tensors of one type with the same leading dimensions ({}, {})", describe("a", a),
        describe("b", b));
  const bool ta = transpose_a == Trans::yes, tb = transpose_b == Trans::yes;
  const std::int64_t k = a.size(ta ? -2 : -1);
  check(b.size(tb ? -1 : -2) == k, "matmul: a{} has {} columns, b{} has {} rows ({}, {})", ta ? " transposed" : "", k,
        tb ? " transposed" : "", b.size(tb ? -1 : -2), describe("a", a), describe("b", b));
  Tensor y =
      Tensor::empty(a.shape().with(-2, a.size(ta ? -1 : -2)).with(-1, b.size(tb ? -2 : -1)), a.dtype(), a.device());
  matmul_forward(a, transpose_a, b, transpose_b, y);
  return record<MatmulNode>(std::move(y), {a, b}, {}, [&](MatmulNode& node) {
    if (b.needs_grad()) node.a = a.detach();
    if (a.needs_grad()) node.b = b.detach();
    node.a_shape = a.shape(), node.b_shape = b.shape();
    node.ta = transpose_a, node.tb = transpose_b;
  });
}

// --- sum, mean ---

namespace {

struct SumNode : Node {
  Shape before;
  int dim = 0;
  double factor = 1;
  const char* name() const override { return "sum"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::empty(before, dy.dtype(), dy.device());
    sum_backward(dy, dim, factor, dx);
    give(0, std::move(dx));
  }
};

Tensor scaled_sum(const Tensor& x, int dim, double factor) {
  std::array<std::int64_t, Shape::kMaxRank> sizes{};
  const auto end = std::copy(x.shape().begin(), x.shape().begin() + dim, sizes.begin());
  std::copy(x.shape().begin() + dim + 1, x.shape().end(), end);
  const Shape shape(std::span(sizes.data(), static_cast<std::size_t>(x.rank() - 1)));
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  sum_forward(x, dim, factor, y);
  return record<SumNode>(std::move(y), {x}, {}, [&](SumNode& node) {
    node.before = x.shape();
    node.dim = dim, node.factor = factor;
  });
}

}  // namespace

Tensor sum(const Tensor& x) { return scaled_sum(reshape(x, {-1}), 0, 1); }

Tensor sum(const Tensor& x, int dim) { return scaled_sum(x, check_dim("sum", x, dim), 1); }

Tensor mean(const Tensor& x) {
  check(x.elements() > 0, "mean: there are no elements ({})", describe("x", x));
  return scaled_sum(reshape(x, {x.elements()}), 0, 1.0 / static_cast<double>(x.elements()));
}

Tensor mean(const Tensor& x, int dim) {
  dim = check_dim("mean", x, dim);
  check(x.size(dim) > 0, "mean: there are no elements along dimension {} ({})", dim, describe("x", x));
  return scaled_sum(x, dim, 1.0 / static_cast<double>(x.size(dim)));
}

// --- reshape ---

namespace {
struct ReshapeNode : Node {
  Shape before, after;
  Saved x;  // only where it is recomputed
  const char* name() const override { return "reshape"; }
  void backward(const Tensor& dy) override { give(0, dy.view(before)); }
  int recompute_sweeps() const override { return x.recompute_sweeps(); }
  Tensor recompute() const override { return x.get().view(after); }
};
}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  return record<ReshapeNode>(x.view(shape), {x}, {}, [&](ReshapeNode& node) {
    node.before = x.shape(), node.after = shape;
    if (const Saved saved(x); saved.recompute_sweeps() > 0) node.x = saved;
  });
}

Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes) {
  if (std::find(sizes.begin(), sizes.end(), -1) == sizes.end()) return reshape(x, Shape(sizes));
  check(sizes.size() <= Shape::kMaxRank, "reshape: at most {} dimensions, got {}", Shape::kMaxRank, sizes.size());
  std::array<std::int64_t, Shape::kMaxRank> all{};
  std::copy(sizes.begin(), sizes.end(), all.begin());
  const std::span<std::int64_t> known(all.data(), sizes.size());
  const auto open = std::find(known.begin(), known.end(), -1);
  *open = 1;
  check(std::find(known.begin(), known.end(), -1) == known.end(), "reshape: one size may be -1, got more ({})",
        describe("x", x));
  const std::int64_t rest = Shape(known).elements();
  check(rest > 0 && x.elements() % rest == 0, "reshape: the {} elements of {} are no multiple of {}", x.elements(),
        x.shape(), rest);
  *open = x.elements() / rest;
  return reshape(x, Shape(known));
}

// --- permute ---

namespace {
struct PermuteNode : Node {
  Shape before, inverse;
  const char* name() const override { return "permute"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::empty(before, dy.dtype(), dy.device());
    permute_forward(dy, inverse, dx);
    give(0, std::move(dx));
  }
};
}  // namespace

Tensor permute(const Tensor& x, const Shape& order) {
  Shape shape = x.shape(), inverse = order;
  bool seen[Shape::kMaxRank] = {};
  check(order.rank() == x.rank(), "permute: expected {} dimensions, the order has {} ({}, order {})", x.rank(),
        order.rank(), describe("x", x), order);
  for (int i = 0; i < order.rank(); ++i) {
    check(order[i] < x.rank() && !seen[order[i]], "permute: the order must name every dimension once ({}, order {})",
          describe("x", x), order);
    seen[order[i]] = true;
    shape[i] = x.size(static_cast<int>(order[i]));
    inverse[static_cast<int>(order[i])] = i;
  }
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  permute_forward(x, order, y);
  return record<PermuteNode>(std::move(y), {x}, {}, [&](PermuteNode& node) {
    node.before = x.shape();
    node.inverse = inverse;
  });
}

Tensor from_nchw(const Tensor& x) {
  check(x.rank() == 4, "from_nchw: expected images [N,C,H,W], got {}", describe("x", x));
  return permute(x, {0, 2, 3, 1});
}

Tensor to_nchw(const Tensor& x) {
  check(x.rank() == 4, "to_nchw: expected images [N,H,W,C], got {}", describe("x", x));
  return permute(x, {0, 3, 1, 2});
}

// --- concat ---

namespace {
struct ConcatNode : Node {
  std::vector<Shape, PoolAllocator<Shape>> shapes;
  int dim = 0;
  const char* name() const override { return "concat"; }
  void backward(const Tensor& dy) override {
    Shape begin = origin(dy.rank());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (needs(i)) {
        Tensor dx = Tensor::empty(shapes[i], dy.dtype(), dy.device());
        copy_box(dy, begin, dx, origin(dy.rank()), shapes[i]);
        give(i, std::move(dx));
      }
      begin[dim] += shapes[i][dim];
    }
  }
};
}  // namespace

Tensor concat(std::span<const Tensor> xs, int dim) {
  check(!xs.empty(), "concat: expected at least one tensor");
  const Tensor& first = xs.front();
  dim = check_dim("concat", first, dim);
  std::int64_t total = 0;
  for (const Tensor& x : xs) {
    check(
        x.rank() == first.rank() && x.dtype() == first.dtype() && x.shape().with(dim, 0) == first.shape().with(dim, 0),
        "concat: tensors differ in more than dimension {} ({}, {})", dim, describe("first", first),
        describe("another", x));
    total += x.size(dim);
  }
  Tensor y = Tensor::empty(first.shape().with(dim, total), first.dtype(), first.device());
  Shape begin = origin(y.rank());
  for (const Tensor& x : xs) {
    copy_box(x, origin(y.rank()), y, begin, x.shape());
    begin[dim] += x.size(dim);
  }
  return record<ConcatNode>(std::move(y), xs, {}, [&](ConcatNode& node) {
    node.shapes.reserve(xs.size());
    for (const Tensor& x : xs) node.shapes.push_back(x.shape());
    node.dim = dim;
  });
}

Tensor concat(std::initializer_list<Tensor> xs, int dim) { return concat(std::span(xs.begin(), xs.size()), dim); }

// --- pad ---

namespace {
struct PadNode : Node {
  Shape inside, begin;
  const char* name() const override { return "pad"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::empty(inside, dy.dtype(), dy.device());
    copy_box(dy, begin, dx, origin(dy.rank()), inside);
    give(0, std::move(dx));
  }
};
}  // namespace

Tensor pad(const Tensor& x, const Shape& before, const Shape& after) {
  check(before.rank() == x.rank() && after.rank() == x.rank(),
        "pad: expected {} sizes before and after, got {} and {} ({})", x.rank(), before.rank(), after.rank(),
        describe("x", x));
  Shape shape = x.shape();
  for (int i = 0; i < x.rank(); ++i) shape[i] += before[i] + after[i];
  Tensor y = Tensor::zeros(shape, x.dtype(), x.device());
  copy_box(x, origin(x.rank()), y, before, x.shape());
  return record<PadNode>(std::move(y), {x}, {}, [&](PadNode& node) {
    node.inside = x.shape();
    node.begin = before;
  });
}

Tensor pad2d(const Tensor& x, std::int64_t border) {
  check(x.rank() == 4 && border >= 0, "pad2d: expected images [N,H,W,C] and a border of at least 0, got {} and {}",
        describe("x", x), border);
  const Shape sides{0, border, border, 0};
  return pad(x, sides, sides);
}

}  // namespace dattn
