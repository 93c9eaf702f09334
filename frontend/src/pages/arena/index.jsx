export default function Page() {
  return <h1>Arena</h1>;
}
