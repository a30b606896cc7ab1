// The few things asked of MPI, for runs that mpirun starts. mpi.cpp implements them; mpi_none.cpp stands in for it in a
// build without MPI, where built() is false and the others throw. From one thread only.
#pragma once
#include <memory>
#include <string>

#include "comm/host_transport.h"

namespace scfa::mpi {

bool built();
std::string description();  // the library and its version, or how to get it

// To be called once, and leave() at the end of a run that went well. A program that ends without it is seen by mpirun
// as failed, and mpirun ends the other ranks.
void join(int* rank, int* size);
void leave();

std::string broadcast(std::string text);  // rank 0's

std::unique_ptr<HostTransport> make_transport();

}  // namespace scfa::mpi
