// Python bindings of what is read again and again: rooms, files, and matrices on their way from one into the other.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "direct_file.h"
#include "reading.h"
#include "room.h"

namespace nb = nanobind;

namespace ingle {
namespace {

nb::ndarray<nb::numpy, float, nb::ndim<2>> rows_of(const Reading& reading) {
  const SharedMatrix matrix = reading.matrix();
  auto* const values = new float[static_cast<size_t>(matrix->n * matrix->k)];
  const nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  for (int64_t r = 0; r < matrix->n; ++r) matrix->row(r, values + r * matrix->k);
  return {values, {static_cast<size_t>(matrix->n), static_cast<size_t>(matrix->k)}, owner};
}

}  // namespace

void bind_stream(nb::module_& m) {
  using namespace nb::literals;
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Room>(m, "Room", "Memory for matrices that come and go. It is unmapped with the last of them.")
      .def(nb::init<size_t>(), "n_bytes"_a)
      .def_prop_ro("n_bytes", &Room::bytes);
  nb::class_<DirectFile>(m, "DirectFile", "The file behind an open descriptor, read past the system's cache.")
      .def(nb::init<int>(), "descriptor"_a)
      .def_prop_ro("direct", &DirectFile::direct, "False where it is read through the cache after all.");
  nb::class_<Reading>(m, "Reading", "A matrix on its way from a file into a room; see native/src/reading.h.")
      .def(
          "__init__",
          [](Reading* self, int type, int64_t n, int64_t k, std::shared_ptr<DirectFile> file, int64_t offset,
             size_t n_bytes, std::shared_ptr<Room> room, size_t at, size_t piece) {
            new (self) Reading({type, n, k, std::move(file), offset, n_bytes}, std::move(room), at, piece);
          },
          "type_id"_a, "n"_a, "k"_a, "file"_a, "offset"_a, "n_bytes"_a, "room"_a, "at"_a,
          "piece_bytes"_a = Reading::kPiece)
      .def("help", &Reading::help, released, "OSError where the file cannot be read; ENODATA where it has ended.")
      .def("cancel", &Reading::cancel)
      .def("rows", &rows_of, "The matrix dequantised from its planes: float32 [n, k]. For tests.")
      .def_prop_ro("done", &Reading::done)
      .def_prop_ro("read_s", &Reading::read_s)
      .def_prop_ro("arrange_s", &Reading::arrange_s);
}

}  // namespace ingle
