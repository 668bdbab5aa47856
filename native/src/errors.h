// What the core throws on purpose. The Python binding raises the class of ingle.errors that has the same name.
#pragma once
#include <stdexcept>

namespace ingle {

// A verb was given what it cannot compute.
struct BackendError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A sound model that needs something the core does not have.
struct UnsupportedError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The memory needed is not there.
struct MemoryLimitError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace ingle
