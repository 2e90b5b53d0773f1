// The kernels of one functor, which the build names in TORCHCLIP_FUNCTOR: compiled once for each, beside one another.
#include "launchers.cuh"

template torchclip::cuda::Launchers torchclip::cuda::functor_launchers<torchclip::TORCHCLIP_FUNCTOR>(const Bucket&);
