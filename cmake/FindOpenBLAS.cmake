# Finds OpenBLAS with its C interface and makes the target OpenBLAS::OpenBLAS. Where the distribution ships several
# builds side by side (Debian, Ubuntu), the OpenMP one is taken: it shares threads with our own loops.
set(_suffixes openblas-openmp openblas-pthread openblas)
find_library(OpenBLAS_LIBRARY NAMES openblas PATH_SUFFIXES ${_suffixes}
  PATHS /usr/lib/x86_64-linux-gnu/openblas-openmp /usr/lib/aarch64-linux-gnu/openblas-openmp NO_DEFAULT_PATH)
find_library(OpenBLAS_LIBRARY NAMES openblas PATH_SUFFIXES ${_suffixes})
find_path(OpenBLAS_INCLUDE_DIR cblas.h PATHS /usr/include/x86_64-linux-gnu/openblas-openmp
  /usr/include/aarch64-linux-gnu/openblas-openmp NO_DEFAULT_PATH)
find_path(OpenBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES ${_suffixes})
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenBLAS REQUIRED_VARS OpenBLAS_LIBRARY OpenBLAS_INCLUDE_DIR)
if(OpenBLAS_FOUND AND NOT TARGET OpenBLAS::OpenBLAS)
  get_filename_component(_real "${OpenBLAS_LIBRARY}" REALPATH)
  add_library(OpenBLAS::OpenBLAS UNKNOWN IMPORTED)
  set_target_properties(OpenBLAS::OpenBLAS PROPERTIES IMPORTED_LOCATION "${OpenBLAS_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${OpenBLAS_INCLUDE_DIR}")
endif()
