// Replaces a header of the CUDA compiler that libtorch's packages lack. It defines only what the runtime's
// headers need.
#pragma once
#define __host__
#define __device__
#define __location__(where)
#define __device_builtin__
#define __device_builtin_surface_type__
#define __device_builtin_texture_type__
#define __cudart_builtin__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_align__(bytes) __align__(bytes)
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define CUDART_CB
