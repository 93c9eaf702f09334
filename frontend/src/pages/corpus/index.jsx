export default function Page() {
  return <h1>Corpus</h1>;
}
