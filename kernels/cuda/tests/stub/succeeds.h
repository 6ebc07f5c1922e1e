/* What candle calls to open and leave a device, where a stand-in for a driver has nothing to do. */
#define SUCCEEDS(name)                                                                                                 \
    int name(void) { return 0; }
SUCCEEDS(cuCtxSetCurrent)
SUCCEEDS(cuDevicePrimaryCtxRelease_v2)
SUCCEEDS(cuEventDestroy_v2)
SUCCEEDS(cuEventRecord)
SUCCEEDS(cuStreamDestroy_v2)
SUCCEEDS(cuStreamWaitEvent)
SUCCEEDS(cublasCreate_v2)
SUCCEEDS(cublasDestroy_v2)
SUCCEEDS(cublasSetStream_v2)
SUCCEEDS(cublasSetWorkspace_v2)
SUCCEEDS(curandCreateGenerator)
SUCCEEDS(curandDestroyGenerator)
SUCCEEDS(curandSetPseudoRandomGeneratorSeed)
SUCCEEDS(curandSetStream)
