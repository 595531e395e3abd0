// An accelerator that is none: torch's PrivateUse1 device, whose memory is the host's under addresses that fault.
//
// Every operation runs the CPU's kernel on the same bytes, so a device tensor can do what a CPU tensor can. What
// makes it a stand-in for a real device is that nobody else can read it: data_ptr() is tagged and not canonical, so
// a memcpy or a hash of it dies of SIGSEGV, and bytes cross between host and device in aten::_copy_from only, which
// counts them. Two devices by default. No streams: everything has happened when a call returns.
//
// What it follows: "Facilitating New Backend Integration by PrivateUse1" (PyTorch tutorials) and
// aten/src/ATen/native/CPUFallback.cpp.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace {

constexpr auto kStandin = c10::DeviceType::PrivateUse1;
constexpr uintptr_t kTag = uintptr_t(1) << 62;

std::atomic<int64_t> to_host_bytes{0}, to_device_bytes{0}, device_bytes{0};
std::atomic<bool> is_broken{false};
thread_local c10::DeviceIndex current_device = 0;

c10::DeviceIndex device_count() {
  const char* count = std::getenv("STANDIN_DEVICES");
  return count ? std::atoi(count) : 2;
}

void check_works() {
  TORCH_CHECK(!is_broken, "standin error: an illegal memory access was encountered");
}

void* tagged(void* real) { return real ? reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(real) | kTag) : nullptr; }
void* untagged(const void* address) { return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(address) & ~kTag); }

void let_go(void* storage) { delete static_cast<c10::Storage*>(storage); }

// The memory of a CPU storage, as a device's.
c10::DataPtr as_device(const c10::Storage& host, c10::Device device) {
  return {tagged(host.mutable_data()), new c10::Storage(host), &let_go, device};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    check_works();
    auto* real = size ? std::malloc(size) : nullptr;
    device_bytes += size;
    return {tagged(real), real, &std::free, c10::Device(kStandin, current_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(untagged(to), untagged(from), size);
  }
};

DeviceAllocator allocator;
REGISTER_ALLOCATOR(kStandin, &allocator);

// The same bytes seen by the CPU.
at::Tensor as_host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device().type() != kStandin)
    return tensor;
  const auto& storage = tensor.storage();
  c10::DataPtr pointer(untagged(storage.data()), new c10::Storage(storage), &let_go, c10::DeviceType::CPU);
  c10::Storage host(
      c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(pointer), c10::GetAllocator(c10::DeviceType::CPU), true);
  auto found = at::detail::make_tensor<c10::TensorImpl>(
      std::move(host), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  found.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return found;
}

struct Argument {
  at::Tensor device, host;
};

at::Tensor as_device_tensor(const at::Tensor& host, const std::vector<Argument>& arguments, c10::Device device) {
  if (!host.defined() || host.device().type() != c10::DeviceType::CPU)
    return host;
  c10::Storage storage;
  for (const auto& argument : arguments) {
    if (argument.host.unsafeGetTensorImpl() == host.unsafeGetTensorImpl())
      return argument.device;  // in place, or out=
    if (argument.host.storage().unsafeGetStorageImpl() == host.storage().unsafeGetStorageImpl())
      storage = argument.device.storage();  // a view
  }
  if (!storage)
    storage = c10::Storage(
        c10::Storage::use_byte_size_t(), host.storage().nbytes(), as_device(host.storage(), device), &allocator, true);
  auto found = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), host.dtype());
  found.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  return found;
}

// Operations with out= may have resized the host's view of a tensor.
void follow(const Argument& argument) {
  const auto& host = argument.host.storage();
  const auto& storage = argument.device.storage();
  if (host.data() != untagged(storage.data())) {
    storage.set_data_ptr_noswap(as_device(host, argument.device.device()));
    storage.set_nbytes(host.nbytes());
  }
  if (argument.host.sizes() != argument.device.sizes() || argument.host.strides() != argument.device.strides())
    argument.device.unsafeGetTensorImpl()->set_sizes_and_strides(
        argument.host.sizes(), argument.host.strides(), argument.host.storage_offset());
}

// The CPU's kernel, on the same bytes.
void on_the_same_bytes(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check_works();
  const auto& schema = op.schema();
  const auto count = schema.arguments().size();
  std::vector<Argument> seen;
  c10::Device device(kStandin, current_device);
  auto replace = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.device().type() != kStandin)
      return tensor;
    device = tensor.device();
    for (const auto& argument : seen)
      if (argument.device.is_same(tensor))
        return argument.host;
    seen.push_back({tensor, as_host(tensor)});
    return seen.back().host;
  };
  const auto begin = stack->size() - count;
  for (size_t i = 0; i < count; ++i) {
    auto& value = (*stack)[begin + i];
    if (value.isTensor()) {
      value = replace(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const auto& one : value.toTensorVector())
        list.push_back(replace(one));
      value = c10::IValue(c10::List<at::Tensor>(list));
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector())
        list.push_back(one ? std::optional<at::Tensor>(replace(*one)) : std::nullopt);
      value = c10::IValue(list);
    } else if (value.isDevice() && value.toDevice().type() == kStandin) {
      device = value.toDevice();
      value = c10::IValue(c10::Device(c10::DeviceType::CPU));
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (const auto& argument : seen)
    follow(argument);
  const auto returned = schema.returns().size();
  const auto from = stack->size() - returned;
  for (size_t i = 0; i < returned; ++i) {
    auto& value = (*stack)[from + i];
    if (value.isTensor()) {
      value = as_device_tensor(value.toTensor(), seen, device);
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const auto& one : value.toTensorVector())
        list.push_back(as_device_tensor(one, seen, device));
      value = c10::IValue(c10::List<at::Tensor>(list));
    }
  }
}

at::Tensor empty_memory_format(
    c10::SymIntArrayRef size,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(kStandin, current_device)));
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size),
      &allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      dtype.value_or(c10::get_default_dtype_as_scalartype()),
      format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>) {
  const c10::DeviceGuard guard(device.value_or(c10::Device(kStandin, current_device)));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size),
      C10_AS_INTARRAYREF_SLOW(stride),
      &allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      dtype.value_or(c10::get_default_dtype_as_scalartype()));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  check_works();
  const bool reads = from.device().type() == kStandin, writes = to.device().type() == kStandin;
  if (reads && !writes)
    to_host_bytes += from.nbytes();
  if (writes && !reads)
    to_device_bytes += to.nbytes();
  as_host(to).copy_(as_host(from));
  return to;
}

at::Tensor& set_source(
    at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset.guard_int(__FILE__, __LINE__));
  auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  if (stride.empty() && !sizes.empty())
    impl->set_sizes_contiguous(sizes);
  else
    impl->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride));
  return self;
}

at::Tensor& set_source_whole(at::Tensor& self, at::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / self.itemsize());
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(0);
  impl->set_sizes_contiguous({count});
  return self;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_same_bytes>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty_memory_format);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", [](const at::Tensor& from, const at::Tensor& to) {
    to.resize_(from.sizes());
    return copy_from(from, to, false);
  });
  m.impl("set_.source_Storage_storage_offset", set_source);
  m.impl("set_.source_Storage", set_source_whole);
}

TORCH_LIBRARY(standin, m) {
  m.def("to_host_bytes() -> int", []() { return to_host_bytes.exchange(0); });
  m.def("to_device_bytes() -> int", []() { return to_device_bytes.exchange(0); });
  m.def("allocated_bytes() -> int", []() { return device_bytes.exchange(0); });
  m.def("break_device(bool broken) -> ()", [](bool broken) { is_broken = broken; });
  m.def("check() -> ()", &check_works);
  m.def("device_count() -> int", []() { return static_cast<int64_t>(device_count()); });
  m.def("current_device() -> int", []() { return static_cast<int64_t>(current_device); });
  m.def("set_device(int index) -> ()", [](int64_t index) { current_device = index; });
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kStandin; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    uncheckedSetDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {kStandin, current_device}; }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index())
      current_device = device.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return device_count(); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { check_works(); }
  void synchronizeDevice(const c10::DeviceIndex) const override { check_works(); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return device_count() > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return device_count(); }
  c10::DeviceIndex getCurrentDevice() const override { return current_device; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::DeviceType::CPU); }
  bool isPinnedPtr(const void*) const override { return false; }
};

const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

}  // namespace
