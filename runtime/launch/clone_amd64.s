#include "textflag.h"

// func clone(args *cloneArgs, size uintptr, m *machine) (pid, errno uintptr)
//
// The child may share the parent's memory and stack, which waits meanwhile. So the child must not return from here: it
// would overwrite frames that the parent still needs. Below this frame the stack is its own.
TEXT ·clone(SB), NOSPLIT, $16-40
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ $435, AX // clone3
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JCC  failed
	TESTQ AX, AX
	JZ   child
	MOVQ AX, pid+24(FP)
	MOVQ $0, errno+32(FP)
	RET

failed:
	NEGQ AX
	MOVQ $0, pid+24(FP)
	MOVQ AX, errno+32(FP)
	RET

child:
	MOVQ m+16(FP), AX
	MOVQ AX, 0(SP)
	CALL ·child(SB)
	INT  $3

// func lastCode() *byte
TEXT ·lastCode(SB), NOSPLIT, $0-8
	LEAQ ·last(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// last is the program of the last leg. It is copied out of this binary, and must not refer to anything of it. R12 is
// the data, R13 the operation: their layouts are in last.go.
TEXT ·last(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $0x600000, R12
	MOVQ 8(SP), AX       // argv[0]
	MOVQ 0(R12), BX
	MOVQ AX, 0(BX)
	MOVQ 16(SP), AX      // argv[1], which may be the end of the list
	MOVQ 32(R12), BX
	MOVQ AX, 0(BX)
	LEAQ 64(R12), R13

next:
	MOVQ 0(R13), AX
	MOVQ 8(R13), DI
	MOVQ 16(R13), SI
	MOVQ 24(R13), DX
	MOVQ 32(R13), R10
	MOVQ 40(R13), R8
	MOVQ 48(R13), R9
	SYSCALL
	CMPQ AX, $0xfffffffffffff001
	JCC  error
	MOVQ 64(R13), BX     // the result goes to two places
	MOVQ AX, 0(BX)
	MOVQ 72(R13), BX
	MOVQ AX, 0(BX)
	MOVQ 80(R13), BX     // and may have to be a certain one
	TESTQ BX, BX
	JZ   done
	CMPQ AX, BX
	JNE  exit

done:
	ADDQ $96, R13
	JMP  next

error:
	NEGQ AX
	CMPQ AX, $4          // EINTR
	JEQ  next
	CMPQ AX, 56(R13)     // an error that is none
	JEQ  done
	MOVQ 88(R13), BX     // the message: index<<12 | errno
	SHLQ $12, BX
	ORQ  AX, BX
	MOVL BX, 12(R12)
	MOVQ 16(R12), DI
	LEAQ 8(R12), SI
	MOVQ $8, DX
	MOVQ $0x4000, R10    // MSG_NOSIGNAL
	MOVQ $0, R8
	MOVQ $0, R9
	MOVQ $44, AX         // sendto
	SYSCALL

exit:
	MOVQ $1, DI
	MOVQ $231, AX        // exit_group
	SYSCALL
	JMP  exit
