// Eight float32 numbers in a register of AVX2, or one, with what the rules ask of a number, so that a functor's text
// serves them. For files that compile everything for AVX2.
//
// Compilers fuse products with the sums that they stand in, and which of two products depends on what is around: on the
// types of the operands, say. Here it is a rule. So every form of operands that is served here has the same results to
// the bit, and so have elements by eight and one by one.
#pragma once

#include "../scalar_ops.h"
#include "x86.h"

namespace torchclip::cpu {

// By lanes: what operators cannot be asked for.
struct VectorMask {
  __m256 lanes;  // all bits of a number, or none
};
TORCHCLIP_HD VectorMask operator|(VectorMask a, VectorMask b) { return {_mm256_or_ps(a.lanes, b.lanes)}; }
TORCHCLIP_HD __m256 broadcast(float each, __m256) { return _mm256_set1_ps(each); }
TORCHCLIP_HD VectorMask is_less(__m256 a, __m256 b) { return {_mm256_cmp_ps(a, b, _CMP_LT_OQ)}; }
TORCHCLIP_HD VectorMask differs(__m256 a, __m256 b) { return {_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)}; }
TORCHCLIP_HD __m256 chosen(VectorMask mask, __m256 a, __m256 b) { return _mm256_blendv_ps(b, a, mask.lanes); }
TORCHCLIP_HD __m256 root(__m256 value) { return _mm256_sqrt_ps(value); }
TORCHCLIP_HD __m256 without_sign(__m256 value) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), value); }
TORCHCLIP_HD __m256 sign_taken(__m256 value, __m256 sign) {
  return _mm256_or_ps(without_sign(value), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
TORCHCLIP_HD float broadcast(float each, float) { return each; }
TORCHCLIP_HD bool is_less(float a, float b) { return a < b; }
TORCHCLIP_HD bool differs(float a, float b) { return a != b; }
TORCHCLIP_HD float chosen(bool mask, float a, float b) { return mask ? a : b; }
TORCHCLIP_HD float root(float value) { return sqrtf(value); }
TORCHCLIP_HD float without_sign(float value) { return fabsf(value); }
TORCHCLIP_HD float sign_taken(float value, float sign) { return copysignf(value, sign); }

// a b + c, rounded once. Below g++ 12 the loops for AVX2 are built without it: see clones.h. Macros do not tell what a
// pragma has asked for.
#if __GNUC__ >= 12
TORCHCLIP_HD __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
// By name: a negated fmaf becomes one of other signs, and a zero has another sign then.
TORCHCLIP_HD float multiply_add(float a, float b, float c) {
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
#else
template <class Lanes>
TORCHCLIP_HD Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return a * b + c;
}
#endif

template <class Lanes>
struct Product;

template <class Lanes>
struct Fused {
  Lanes lanes;

  Fused() = default;
  TORCHCLIP_HD Fused(float each) : lanes(broadcast(each, Lanes{})) {}  // as coefficients are
  static TORCHCLIP_HD Fused of(Lanes lanes) {
    Fused result;
    result.lanes = lanes;
    return result;
  }

  friend TORCHCLIP_HD Product<Lanes> operator*(Fused a, Fused b) { return {a, b}; }
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
template <class Lanes>
struct Product {
  Fused<Lanes> a, b;

  TORCHCLIP_HD operator Fused<Lanes>() const { return Fused<Lanes>::of(a.lanes * b.lanes); }
  friend TORCHCLIP_HD Fused<Lanes> operator+(Product x, Fused<Lanes> y) {
    return Fused<Lanes>::of(multiply_add(x.a.lanes, x.b.lanes, y.lanes));
  }
  friend TORCHCLIP_HD Fused<Lanes> operator-(Product x, Fused<Lanes> y) {
    return Fused<Lanes>::of(multiply_add(x.a.lanes, x.b.lanes, -y.lanes));
  }
  friend TORCHCLIP_HD Fused<Lanes> operator-(Fused<Lanes> x, Product y) {
    return Fused<Lanes>::of(multiply_add(-y.a.lanes, y.b.lanes, x.lanes));
  }
  friend TORCHCLIP_HD Fused<Lanes> operator+(Fused<Lanes> x, Product y) { return y + x; }
  friend TORCHCLIP_HD Fused<Lanes> operator+(Product x, Product y) { return x + Fused<Lanes>(y); }
  friend TORCHCLIP_HD Fused<Lanes> operator-(Product x, Product y) { return x - Fused<Lanes>(y); }
};

using FloatVector = Fused<__m256>;

}  // namespace torchclip::cpu
