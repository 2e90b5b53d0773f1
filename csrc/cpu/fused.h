// Float32 numbers in a register, or one, with what the rules ask of a number, so that a functor's text serves them. For
// files that have included avx2.h or avx512.h.
//
// Compilers fuse products with the sums that they stand in, and which of two products depends on what is around: on the
// types of the operands, say. Here it is a rule. So every form of operands that is served here has the same results to
// the bit, and so have elements in a vector and one by one.
#pragma once

#include "../scalar_ops.h"

namespace torchclip::cpu::TORCHCLIP_VECTORS {

TORCHCLIP_HD float broadcast(float each, float) { return each; }
TORCHCLIP_HD bool is_less(float a, float b) { return a < b; }
TORCHCLIP_HD bool differs(float a, float b) { return a != b; }
TORCHCLIP_HD float chosen(bool mask, float a, float b) { return mask ? a : b; }
TORCHCLIP_HD float root(float value) { return sqrtf(value); }
TORCHCLIP_HD float without_sign(float value) { return fabsf(value); }
TORCHCLIP_HD float sign_taken(float value, float sign) { return copysignf(value, sign); }

// a b + c, rounded once where vectors have it so.
TORCHCLIP_HD float multiply_add(float a, float b, float c) {
  if constexpr (!kHasMultiplyAdd) return a * b + c;
  // By name: a negated fmaf becomes one of other signs, and a zero has another sign then.
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}

template <class Number>
struct Product;

template <class Number>
struct Fused {
  Number lanes;

  Fused() = default;
  TORCHCLIP_HD Fused(float each) : lanes(broadcast(each, Number{})) {}  // as coefficients are
  static TORCHCLIP_HD Fused of(Number lanes) {
    Fused result;
    result.lanes = lanes;
    return result;
  }

  friend TORCHCLIP_HD Product<Number> operator*(Fused a, Fused b) { return {a, b}; }
  friend TORCHCLIP_HD Fused operator/(Fused a, Fused b) { return of(a.lanes / b.lanes); }
  friend TORCHCLIP_HD Fused operator+(Fused a, Fused b) { return of(a.lanes + b.lanes); }
  friend TORCHCLIP_HD Fused operator-(Fused a, Fused b) { return of(a.lanes - b.lanes); }
  template <class Other>
  TORCHCLIP_HD Fused& operator+=(Other other) {
    return *this = *this + other;
  }
  template <class Other>
  TORCHCLIP_HD Fused& operator-=(Other other) {
    return *this = *this - other;
  }
  TORCHCLIP_HD Fused& operator*=(Fused other) { return *this = *this * other; }
  TORCHCLIP_HD Fused& operator/=(Fused other) { return *this = *this / other; }

  friend TORCHCLIP_HD auto operator<(Fused a, Fused b) { return is_less(a.lanes, b.lanes); }
  friend TORCHCLIP_HD auto operator>(Fused a, Fused b) { return is_less(b.lanes, a.lanes); }
  friend TORCHCLIP_HD auto operator!=(Fused a, Fused b) { return differs(a.lanes, b.lanes); }
  friend TORCHCLIP_HD Fused select(VectorMask mask, Fused a, Fused b) { return of(chosen(mask, a.lanes, b.lanes)); }
  friend TORCHCLIP_HD Fused square_root(Fused value) { return of(root(value.lanes)); }
  friend TORCHCLIP_HD Fused magnitude(Fused value) { return of(without_sign(value.lanes)); }
  friend TORCHCLIP_HD Fused with_sign_of(Fused value, Fused sign) { return of(sign_taken(value.lanes, sign.lanes)); }
};

// A product that is rounded when it is asked for, and not where it is added to something or subtracted. Of two products
// the first is fused.
template <class Number>
struct Product {
  Fused<Number> a, b;

  TORCHCLIP_HD operator Fused<Number>() const { return Fused<Number>::of(a.lanes * b.lanes); }
  friend TORCHCLIP_HD Fused<Number> operator+(Product x, Fused<Number> y) {
    return Fused<Number>::of(multiply_add(x.a.lanes, x.b.lanes, y.lanes));
  }
  friend TORCHCLIP_HD Fused<Number> operator-(Product x, Fused<Number> y) {
    return Fused<Number>::of(multiply_add(x.a.lanes, x.b.lanes, -y.lanes));
  }
  friend TORCHCLIP_HD Fused<Number> operator-(Fused<Number> x, Product y) {
    return Fused<Number>::of(multiply_add(-y.a.lanes, y.b.lanes, x.lanes));
  }
  friend TORCHCLIP_HD Fused<Number> operator+(Fused<Number> x, Product y) { return y + x; }
  friend TORCHCLIP_HD Fused<Number> operator+(Product x, Product y) { return x + Fused<Number>(y); }
  friend TORCHCLIP_HD Fused<Number> operator-(Product x, Product y) { return x - Fused<Number>(y); }
};

using FloatVector = Fused<Lanes>;

}  // namespace torchclip::cpu::TORCHCLIP_VECTORS
