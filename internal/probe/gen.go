package probe

//go:generate go tool bpf2go -go-package probe -output-stem tracer -tags linux -target amd64,arm64 -type record -type process_record -type path_record -type cpu -type control -type now_args tracer ../../bpf/tracer.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Wpadded -Werror -Wno-unused-parameter
//go:generate go tool bpf2go -go-package probe -output-stem accept -tags linux -target amd64,arm64 accept ../../bpf/accept.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Wpadded -Werror -Wno-unused-parameter
