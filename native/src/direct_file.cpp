#include "direct_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace ingle {
namespace {

[[noreturn]] void fail(int error) { throw std::system_error(error, std::generic_category()); }

// pread, repeated where a signal came.
size_t read_some(int file, uint8_t* room, size_t n, int64_t offset) {
  for (;;) {
    const ssize_t got = ::pread(file, room, n, static_cast<off_t>(offset));
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) fail(errno);
  }
}

}  // namespace

DirectFile::DirectFile(int descriptor) : buffered_(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
  if (buffered_ < 0) fail(errno);
#if defined(O_DIRECT)
  // By the descriptor and not by a path: the very file that was checked, also when another one has its name by now.
  direct_ = ::open(("/proc/self/fd/" + std::to_string(buffered_)).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
#elif defined(F_NOCACHE)
  (void)::fcntl(buffered_, F_NOCACHE, 1);
#endif
}

DirectFile::~DirectFile() {
  if (direct_ >= 0) (void)::close(direct_);
  (void)::close(buffered_);
}

uint8_t* DirectFile::read(int64_t offset, size_t n, uint8_t* room) const {
  const int64_t begin = offset - offset % static_cast<int64_t>(kPage);
  const auto before = static_cast<size_t>(offset - begin);
  const size_t need = before + n;
  size_t done = 0;
  if (direct()) {
    try {
      done = read_some(direct_, room, (need + kPage - 1) / kPage * kPage, begin);  // less where the file ends
    } catch (const std::system_error& error) {
      if (error.code().value() != EINVAL) throw;
      works_ = false;
    }
  }
  if (done >= need) return room + before;
  for (size_t got = 0; done < need; done += got) {
    got = read_some(buffered_, room + done, need - done, begin + static_cast<int64_t>(done));
    if (got == 0) fail(ENODATA);
  }
#if defined(POSIX_FADV_DONTNEED)
  (void)::posix_fadvise(buffered_, static_cast<off_t>(begin), static_cast<off_t>(need), POSIX_FADV_DONTNEED);
#endif
  return room + before;
}

}  // namespace ingle
