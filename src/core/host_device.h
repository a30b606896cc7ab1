// Functions for both the host and the device.
#pragma once

#ifdef __CUDACC__
#define SCFA_HOST_DEVICE __host__ __device__
#else
#define SCFA_HOST_DEVICE
#endif
