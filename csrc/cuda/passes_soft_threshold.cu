#include "launchers.cuh"

template torchclip::cuda::Launchers torchclip::cuda::functor_launchers<torchclip::SoftThreshold>(const Bucket&);
