#include "launchers.cuh"

template torchclip::cuda::Launchers torchclip::cuda::functor_launchers<torchclip::RootMeanSquare>(const Bucket&);
